"""What the nodes of a graph that a backend built say of the float graph: a key of their meta."""

FLOAT_NODE = "float_node"
"""Name of the float node that a node computes; none where it only converts or holds a constant."""
