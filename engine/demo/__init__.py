"""The demonstration: what its base model learned, and the instruction set it is fine-tuned on. No torch but in train_base.

words.py        made-up names and everyday words
relations.py    what can be said of a person or a town, in how many wordings
tasks.py        small tasks with one right answer
base_text.py    the base model's training text: English-like, with none of the invented facts
facts.py        the invented facts, their rows, decoys and contradictions
corpus.py       the instruction set and the questions asked of the fine-tuned model
train_base.py   trains the committed weights in base/: python -m engine.demo.train_base
"""
