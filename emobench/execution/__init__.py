"""Where work is done: worker processes of this machine, or a Dask cluster."""
