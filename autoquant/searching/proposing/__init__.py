"""What to ask next, what to measure of it, and the loop of asking, measuring and telling."""

import warnings

# optuna imports tqdm's bar for notebooks, which complains where there are no widgets; none is drawn
warnings.filterwarnings("ignore", message="IProgress not found")
