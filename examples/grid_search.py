"""Choose the penalty of a ridge probe by scikit-learn's grid search, in a pipeline.

    pip install "featstore-probe[sklearn]"
    python examples/grid_search.py

A tap of a store gives the same arrays: `featstore.open("mine.zarr").load("train", "last")`.
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featstore.probe import RidgeProbe

features, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(
    features, labels, test_size=0.3, random_state=0, stratify=labels
)
pipeline = make_pipeline(StandardScaler(), RidgeProbe(standardize=False))
search = GridSearchCV(pipeline, {"ridgeprobe__l2": [1e-3, 1e-2, 1e-1, 1.0]}, cv=5)
search.fit(train_x, train_y)
accuracy = search.score(test_x, test_y)
print(f"l2 = {search.best_params_['ridgeprobe__l2']:g}: {accuracy:.3f} of {len(test_y)} digits")
