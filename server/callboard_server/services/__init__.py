"""One thin servicer for each service of the contract: validate, translate, call the engine."""
