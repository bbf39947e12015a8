"""`whence doctor`: is what the database says what lies on the disk, and is it whole?

findings.py    what a check gives, and what it is given
run.py         the list of checks; examine() and repair()
database.py    the database itself: migrations, pages; the secret of its keys
contents.py    ready rows → their files: there, and whole?
orphans.py     files → the rows that own them
stuck.py       rows that wait for a job that will never come
repairs.py     what can be done about each
starting.py    what a server that is alone removes when it starts
"""
