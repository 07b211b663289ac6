"""The commands of `sfddm-train`, one a file. A command imports modules that need torch only when it runs."""
