"""How well scores predict what retraining really does: measured outcomes in, figures with intervals out.

Nothing here trains or loads a model. A figure that the data cannot give is None ("undefined"), never a guess.
"""
