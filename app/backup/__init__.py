"""`whence backup` and `whence restore`: the whole of a server, database and files, in one directory or one tar.

layout.py      what a backup is made of, and how it is read again: backup.json
dump.py        the tables as JSON lines, the same from SQLite and from PostgreSQL
copying.py     files, hashed as they are copied
making.py      backup()
sources.py     a backup as a directory or a tar; verifying it
restoring.py   restore()
"""
