"""How many updates become one: adapter values, their bytes, and the aggregation methods. Pure tensors."""
