"""Making models: data, teacher, distillation, evaluation and the `sfddm-train` command."""
