from .attribution import drop_one as drop_one, shapley as shapley
from .estimators import (
    LDAProbe as LDAProbe,
    LogisticProbe as LogisticProbe,
    RidgeProbe as RidgeProbe,
    SubsetSweep as SubsetSweep,
)
from .layers import (
    LayerSweep as LayerSweep,
    accuracy_by_layer as accuracy_by_layer,
    layer_similarity as layer_similarity,
    layer_spectrum as layer_spectrum,
)
from .learning import learning_curve as learning_curve
from .prediction import (
    load_weights as load_weights,
    predict as predict,
    save_weights as save_weights,
)
from .redundancy import diffused_redundancy as diffused_redundancy
from .result import ProbeResult as ProbeResult, per_class_table as per_class_table
from .results.reading import read_per_class as read_per_class, read_results as read_results
from .results.sentences import sentence as sentence
from .results.views import summary as summary
from .retrieval import retrieval as retrieval
from .rows import ArrayBlocks as ArrayBlocks
from .solvers import KNN as KNN, LDA as LDA, SGD as SGD, Logistic as Logistic, Ridge as Ridge
from .subsets import (
    Chain as Chain,
    random_chain as random_chain,
    subset_chain as subset_chain,
)
from .sweeps import fit as fit, sweep as sweep
