"""Scripts over the library: training, evaluation, pictures. The only place that imports `configs`.

    recipe ──► build ──► loop (run_folder, progress) ──► evaluate ──► pictures

Run them as modules: `python -m experiments.train RECIPE`, `python -m experiments.evaluate RUN`.
"""
