"""The paper's experiment: its data and recipe, its folds trained, predicted and compared, on one machine or many."""
