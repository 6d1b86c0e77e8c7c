"""Products and transposes of the small float32 matrices in a head of attention.

Matrices are (address, bytes from row to row).
"""

from lmpipe.kernels.runtime.intrinsics import CHECKED, bounds_check, kernel
from lmpipe.kernels.runtime.simd_float32 import ZERO, broadcast, make_matmul_block, store_f32x16, transpose_16x16
from lmpipe.kernels.runtime.structs import FLOAT_BYTES, LANES, LANES_BYTES

MATMUL_ROWS = 8


def make_matmul(transpose_a, accumulate):
    """Return a kernel for C = A B, with A transposed or not, or C += A B.

    C has `rows` rows, a multiple of MATMUL_ROWS, and `columns` columns, a multiple of LANES; `depth` is the number of
    B's rows.
    """
    two_vectors = make_matmul_block(MATMUL_ROWS, 2, accumulate)
    one_vector = make_matmul_block(MATMUL_ROWS, 1, accumulate)

    @kernel
    def matmul(c, a, b, rows, columns, depth):
        (c_address, c_stride), (a_address, a_stride), (b_address, b_stride) = c, a, b
        # Bytes from an element of A to the next one in its column and in its row.
        row_step, depth_step = (FLOAT_BYTES, a_stride) if transpose_a else (a_stride, FLOAT_BYTES)
        row_bytes = FLOAT_BYTES * columns
        for row in range(0, rows, MATMUL_ROWS):
            c_row, a_row = c_address + c_stride * row, a_address + row_step * row
            if CHECKED:
                for checked_row in (0, MATMUL_ROWS - 1):
                    bounds_check(c_row + c_stride * checked_row, row_bytes)
                    bounds_check(a_row + row_step * checked_row, FLOAT_BYTES)
                    bounds_check(a_row + row_step * checked_row + depth_step * (depth - 1), FLOAT_BYTES)
                bounds_check(b_address, row_bytes)
                bounds_check(b_address + b_stride * (depth - 1), row_bytes)
            for offset in range(0, row_bytes - LANES_BYTES, 2 * LANES_BYTES):
                two_vectors(c_row + offset, c_stride, a_row, row_step, depth_step, b_address + offset, b_stride, depth)
            if row_bytes % (2 * LANES_BYTES):
                offset = row_bytes - LANES_BYTES
                one_vector(c_row + offset, c_stride, a_row, row_step, depth_step, b_address + offset, b_stride, depth)

    return matmul


matmul = make_matmul(transpose_a=False, accumulate=False)
add_matmul_transposed = make_matmul(transpose_a=True, accumulate=True)


@kernel
def transpose(target, source, rows, columns):
    """Transpose a matrix (rows, columns), both multiples of LANES."""
    (target_address, target_stride), (source_address, source_stride) = target, source
    for column in range(0, columns, LANES):
        for row in range(0, rows, LANES):
            source_block = source_address + source_stride * row + FLOAT_BYTES * column
            target_block = target_address + target_stride * column + FLOAT_BYTES * row
            if CHECKED:
                for checked_row in (0, LANES - 1):
                    bounds_check(source_block + source_stride * checked_row, LANES_BYTES)
                    bounds_check(target_block + target_stride * checked_row, LANES_BYTES)
            transpose_16x16(target_block, target_stride, source_block, source_stride)


@kernel
def clear(address, size):
    """Fill `size` bytes with zeros."""
    for offset in range(0, size, LANES_BYTES):
        store_f32x16(address + offset, broadcast(ZERO))
