"""From a log to a trained run: prepare, batches, models, trainer, metrics, calibration, evaluation."""
