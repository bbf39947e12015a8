"""Experiments that change weights: the fine-tuning run itself, recorded, and the same again with other row weights.

train.py        a deterministic LoRA fine-tune: a checkpoint an epoch, Adam's moments, the recipe; resumes
retrain.py      many variants of it (variant.py), in stacks and processes, and what each does to the queries
                  retrainer.py one resident base · pool.py processes · outcomes.py results on disk
loop.py         the training loop, of one adapter or K; stack.py the K adapters; steps.py order and learning rates
checking.py     run_check(): what a change of the training does to an answer; READ ITS HEAD for the kinds
                  checks.py what is asked and answered · check_requirements.py refusals, without torch
                  tail_patch.py leave_out_check.py replay_check.py flip.py unlearn.py · tuned_stack.py measuring.py
                  greedy.py check_trainings.py check_intervals.py flip_search.py influence_step.py audited.py
replay.py       the exact derivative through the recorded run
recipe.py       recipe.json; huggingface.py reads a Trainer run's instead (trainer_*.py, fitted_schedule.py), and
                  recorded.py finds either beside a model
"""
