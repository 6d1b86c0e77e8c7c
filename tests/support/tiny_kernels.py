"""A module of kernels that compiles in a second."""

from lmpipe.kernels.runtime.intrinsics import kernel, load_int


@kernel
def double(address):
    """Return twice the number at an address."""
    return 2 * load_int(address)


KERNELS = (double,)
