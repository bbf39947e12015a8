"""Experiments that change weights: the fine-tuning run itself, recorded, and the same again with other row weights.

train.py        a deterministic LoRA fine-tune: a checkpoint an epoch, Adam's moments, the recipe; resumes
retrain.py      many variants of it (variant.py), in stacks and processes, and what each does to the queries
                  retrainer.py one resident base · pool.py processes · outcomes.py results on disk
loop.py         the training loop, of one adapter or K; stack.py the K adapters; steps.py order and learning rates
recipe.py       recipe.json; huggingface.py reads a Trainer run's instead (trainer_*.py, fitted_schedule.py), and
                  recorded.py finds either beside a model
"""
