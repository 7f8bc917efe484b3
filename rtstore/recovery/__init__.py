"""Recovery: gather what is there, decide what to do, carry it out."""
