"""`gmpo plan`: what a run needs of GPUs, host memory and disk, from configurations alone."""
