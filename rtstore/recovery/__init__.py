"""Recovery: gather rows and files, decide what to do, execute the plan."""
