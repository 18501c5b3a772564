"""Published steps and memory beside what is predicted: scores, what was held out, fits, evidence, and the ledger."""
