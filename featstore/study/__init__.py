"""Studies: sweeps over several stores, the paper's own list, and the pages that report them."""
