"""Stand-in for PyTorch in the interoperation tests.

`dynamo.nixl_connect` asks whether an object is a tensor and where a tensor is, and Dynamo's reader of
media allocates one and makes a numpy array of it; its transfer of embeddings allocates and describes
one. A numpy array answers all of it, so the tests need no 2 GB package.
"""

import numpy

dtype = numpy.dtype
uint8 = numpy.uint8
float32 = numpy.float32


class device:
    """Of host memory."""

    type = "cpu"


class Tensor:
    """A numpy array in host memory."""

    is_cuda = False
    device = device()

    def __init__(self, array):
        self.array = array

    def __getitem__(self, index):
        return Tensor(self.array[index])

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    def data_ptr(self):
        return self.array.ctypes.data

    def numel(self):
        return self.array.size

    def element_size(self):
        return self.array.itemsize

    def is_contiguous(self):
        return self.array.flags.c_contiguous

    def get_device(self):
        return -1

    def numpy(self):
        return self.array


def empty(shape, dtype):
    return Tensor(numpy.empty(shape, dtype))


def zeros(*shape, dtype):
    return Tensor(numpy.zeros(shape, dtype))
