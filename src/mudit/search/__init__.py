"""Random search of the base hyperparameters on the proxy: draws (`space`), statistics (`sensitivity`), `records`, the stage."""
