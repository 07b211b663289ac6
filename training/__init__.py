"""Training of models: data, teachers, distillation, export, evaluation, and the `sfddm-train` command."""
