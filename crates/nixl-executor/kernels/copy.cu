// Copies pieces of memory between any addresses that the GPU reaches: its own memory, a peer's,
// pinned host memory.
//
//   extern "C" nixl_copy_W(Copy)
//
// with W, the bytes of one access, 16, 8, 4, 2 or 1. How to call them: README.md. The host has
// checked all that is said there; the kernels check nothing.
//
// Compiled to copy.ptx by `cargo xtask ptx`, for every GPU since Turing.

typedef unsigned long long u64;

// Where blocks lie: block i begins at `base + ids[i] * stride`, without `ids` at
// `base + i * stride`.
struct Side {
    u64 base;
    u64 stride;
    const unsigned *ids;
};

// Where a piece lies: bytes after the beginning of its block.
struct Piece {
    u64 source;
    u64 destination;
};

// `blocks` times `pieces` copies of `length` bytes. Without `offsets` every piece lies at the
// beginning of its block.
struct Copy {
    u64 length;
    u64 blocks;
    u64 pieces;
    Side source;
    Side destination;
    const Piece *offsets;
};

struct Addresses {
    u64 source;
    u64 destination;
};

enum : unsigned {
    // Threads of a block at most.
    THREADS = 256,
    // Addresses that a block holds at a time.
    STAGED = 256,
    // Accesses in flight per thread.
    DEPTH = 4,
    // Blocks begin at multiples of this many accesses, so that warps stay aligned in their pieces.
    WARP = 32,
};

__device__ u64 begin_of(const Side &side, u64 block) {
    const u64 id = side.ids == nullptr ? block : side.ids[block];
    return side.base + id * side.stride;
}

// Pieces count through: those of the first block, those of the second, and so on.
__device__ Addresses addresses(const Copy &copy, u64 index) {
    const u64 block = index / copy.pieces;
    const Piece offset = copy.offsets == nullptr ? Piece{0, 0} : copy.offsets[index % copy.pieces];
    return Addresses{begin_of(copy.source, block) + offset.source,
                     begin_of(copy.destination, block) + offset.destination};
}

// All pieces together are one row of accesses. Each block of threads copies a contiguous part of
// it, be that many pieces or a part of one, in steps of one access per thread.
template <typename Word>
__device__ void copy_words(const Copy &copy, u64 count, u64 words) {
    __shared__ Addresses staged[STAGED];

    const u64 total = count * words;
    const u64 even = (total + gridDim.x - 1) / gridDim.x;
    const u64 share = (even + WARP - 1) / WARP * WARP;
    const u64 begin = blockIdx.x * share;
    const u64 end = min(begin + share, total);
    if (begin >= end) {
        return;
    }
    const u64 last = (end - 1) / words;

    // This thread's place: in the row, and within its piece. Moving on needs no division.
    u64 at = begin + threadIdx.x;
    u64 piece = at / words;
    u64 word = at % words;
    const u64 pieces_per_step = blockDim.x / words;
    const u64 words_per_step = blockDim.x % words;

    for (u64 first = begin / words; first <= last; first += STAGED) {
        // Reading more than is needed would be felt: the tables may lie in host memory.
        const u64 beyond = min(first + STAGED, last + 1);
        __syncthreads();
        for (u64 i = first + threadIdx.x; i < beyond; i += blockDim.x) {
            staged[i - first] = addresses(copy, i);
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
                    const Addresses &here = staged[piece - first];
                    data[i] = __ldcg(reinterpret_cast<const Word *>(here.source) + word);
                    to[i] = reinterpret_cast<Word *>(here.destination) + word;
                    at += blockDim.x;
                    piece += pieces_per_step;
                    word += words_per_step;
                    if (word >= words) {
                        word -= words;
                        ++piece;
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

// The ends of the pieces that are shorter than one access, from byte `done` on.
__device__ void copy_ends(const Copy &copy, u64 count, u64 done) {
    const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
    for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) {
        const Addresses here = addresses(copy, i);
        for (u64 byte = done; byte < copy.length; ++byte) {
            reinterpret_cast<unsigned char *>(here.destination)[byte] =
                reinterpret_cast<const unsigned char *>(here.source)[byte];
        }
    }
}

template <typename Word>
__device__ void copy_all(const Copy &copy) {
    const u64 count = copy.blocks * copy.pieces;
    const u64 words = copy.length / sizeof(Word);
    if (words != 0) {
        copy_words<Word>(copy, count, words);
    }
    if (words * sizeof(Word) != copy.length) {
        copy_ends(copy, count, words * sizeof(Word));
    }
}

#define ENTRY(WIDTH, WORD)                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        nixl_copy_##WIDTH(const __grid_constant__ Copy copy) {                                     \
        copy_all<WORD>(copy);                                                                      \
    }

ENTRY(16, uint4)
ENTRY(8, uint2)
ENTRY(4, unsigned int)
ENTRY(2, unsigned short)
ENTRY(1, unsigned char)
