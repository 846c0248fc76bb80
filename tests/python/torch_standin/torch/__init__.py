"""Stand-in for PyTorch in the interoperation tests.

`dynamo.nixl_connect` imports torch only to ask whether an object is a tensor. No object is one
here, so descriptors are made from numpy arrays, and the tests need no 2 GB package.
"""


class Tensor:
    """Never instantiated."""
