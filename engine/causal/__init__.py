"""Experiments that change weights. Here: the fine-tuning run itself, recorded so that others can be compared with it.

train.py    a deterministic LoRA fine-tune: checkpoints, Adam moments and the recipe
recipe.py   recipe.json: what training did
"""
