// Copies chunks of equal length between any addresses that the GPU reaches: its own memory, a
// peer's, pinned host memory.
//
//   nixl_copy_inline_W(u64 count, u64 length, Inline table)         at most 255 chunks
//   nixl_copy_table_W(u64 count, u64 length, const Chunk *table)    any number of chunks
//
// W, the bytes of one access, is 16, 8, 4, 2 or 1; every address in the table must be a multiple
// of it. `length` is in bytes and need not be. `table` is memory that the GPU reaches, aligned to
// 16; pinned host memory serves and needs no copy beforehand. It is read until the kernel ends.
//
// Any one-dimensional grid and block works; kernels/README.md says which are fast. No destination
// may overlap another or a source. The host has checked all this; the kernel does not.
//
// Compiled to copy.ptx by `cargo xtask ptx`, for every GPU since Turing.

typedef unsigned long long u64;

struct alignas(16) Chunk {
    u64 source;
    u64 destination;
};

// What fits into the 4 KiB of a kernel's parameters, beside the two numbers.
struct Inline {
    Chunk chunks[255];
};

enum : unsigned {
    // Chunks whose addresses a block holds at a time.
    STAGED = 256,
    // Accesses in flight per thread.
    DEPTH = 4,
    // Blocks begin at multiples of this many accesses, so that warps stay aligned in their chunks.
    WARP = 32,
};

// All chunks together are one row of accesses. Each block copies a contiguous part of it, whether
// that is many chunks or a piece of one, in steps of one access per thread.
template <typename Word, typename Table>
__device__ void copy(u64 count, u64 length, const Table &table) {
    __shared__ Chunk staged[STAGED];

    const u64 words = length / sizeof(Word);
    const u64 total = count * words;
    const u64 even = (total + gridDim.x - 1) / gridDim.x;
    const u64 share = (even + WARP - 1) / WARP * WARP;
    const u64 begin = blockIdx.x * share;
    const u64 end = min(begin + share, total);
    if (begin < end) {
        const u64 last = (end - 1) / words;

        // This thread's place: in the row, and within its chunk. Moving on needs no division.
        u64 at = begin + threadIdx.x;
        u64 chunk = at / words;
        u64 word = at % words;
        const u64 chunks_per_step = blockDim.x / words;
        const u64 words_per_step = blockDim.x % words;

        for (u64 first = begin / words; first <= last; first += STAGED) {
            const u64 beyond = min(first + STAGED, last + 1);
            __syncthreads();
            for (u64 i = first + threadIdx.x; i < beyond; i += blockDim.x) {
                staged[i - first] = table[i];
            }
            __syncthreads();

            const u64 stop = min(end, beyond * words);
            while (at < stop) {
                Word data[DEPTH];
                Word *to[DEPTH];
#pragma unroll
                for (unsigned i = 0; i < DEPTH; ++i) {
                    to[i] = nullptr;
                    if (at < stop) {
                        const Chunk &addresses = staged[chunk - first];
                        data[i] = __ldcg(reinterpret_cast<const Word *>(addresses.source) + word);
                        to[i] = reinterpret_cast<Word *>(addresses.destination) + word;
                        at += blockDim.x;
                        chunk += chunks_per_step;
                        word += words_per_step;
                        if (word >= words) {
                            word -= words;
                            ++chunk;
                        }
                    }
                }
#pragma unroll
                for (unsigned i = 0; i < DEPTH; ++i) {
                    if (to[i] != nullptr) {
                        __stcg(to[i], data[i]);
                    }
                }
            }
        }
    }

    // What is left of each chunk is less than one access.
    const u64 done = words * sizeof(Word);
    if (done != length) {
        const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
        for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) {
            const Chunk addresses = table[i];
            for (u64 byte = done; byte < length; ++byte) {
                reinterpret_cast<unsigned char *>(addresses.destination)[byte] =
                    reinterpret_cast<const unsigned char *>(addresses.source)[byte];
            }
        }
    }
}

#define ENTRIES(WIDTH, WORD)                                                                       \
    extern "C" __global__ void __launch_bounds__(1024) nixl_copy_inline_##WIDTH(                   \
        u64 count, u64 length, const __grid_constant__ Inline table) {                             \
        copy<WORD>(count, length, table.chunks);                                                   \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(1024) nixl_copy_table_##WIDTH(                    \
        u64 count, u64 length, const Chunk *table) {                                               \
        copy<WORD>(count, length, table);                                                          \
    }

ENTRIES(16, uint4)
ENTRIES(8, uint2)
ENTRIES(4, unsigned int)
ENTRIES(2, unsigned short)
ENTRIES(1, unsigned char)
