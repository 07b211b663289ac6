"""The commands of `sfddm-train`, one a file. Each imports what needs torch only when it runs."""
