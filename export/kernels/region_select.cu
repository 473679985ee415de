// Region selection in one launch: rollout of the CLS row through the layers' attention maps, top-k with stable ties, and
// the gather of the picked tokens beside CLS. It computes what the node lrclr::RegionSelect and
// lrclr.model.select_regions compute; export/kernels/README.md counts the bytes.
//
// One block answers for one chain of one image: a head, or the mean over the heads. The work is written as phases, each
// a function of the thread's number with a barrier behind it, and no thread keeps anything of its own from one phase to
// the next. So the same code runs on a host thread by thread, which is how it is tested where there is no GPU.

#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#define LRCLR_BOTH __host__ __device__
#else
#define LRCLR_BOTH
#endif

namespace lrclr {

constexpr int kMaxLayers = 24;
constexpr int kMaxNodes = 1025;
constexpr int kMaxTopK = 64;
constexpr int kMaxThreads = 1024;
constexpr int kWarp = 32;
constexpr int kColumns = (kMaxNodes + kWarp - 1) / kWarp * kWarp;

// Sizes of a call. `nodes` counts CLS; the last map may hold only its row of CLS, which is all that is read of it.
struct Shape {
  int layers, heads, mean, nodes, last_rows, top_k, row_bytes;
  LRCLR_BOTH int chains() const { return mean ? 1 : heads; }
};

// What the threads of a block share.
struct Scratch {
  const void *maps[kMaxLayers];
  float row[kColumns];
  float partial[kColumns > kMaxThreads ? kColumns : kMaxThreads];
  int picked[kMaxTopK];
  float total;
  int spoilt;
};

struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

LRCLR_BOTH inline float from_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  union { uint32_t bits; float value; } both = {bits};
  return both.value;
#endif
}
LRCLR_BOTH inline float as_float(float value) { return value; }
LRCLR_BOTH inline float as_float(Bfloat value) { return from_bits(uint32_t(value.bits) << 16); }
LRCLR_BOTH inline float as_float(Half value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, exponent = (value.bits >> 10) & 31, mantissa = value.bits & 1023;
  if (exponent == 31) return from_bits(sign | 0x7f800000 | mantissa << 13);
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * float(mantissa) * (1.0f / 16777216.0f);
  return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
#endif
}

// Not isfinite(), which a compiler may be told to take for true.
LRCLR_BOTH inline bool finite(float value) {
#if defined(__CUDA_ARCH__)
  return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
#else
  union { float value; uint32_t bits; } both = {value};
  return (both.bits & 0x7f800000u) != 0x7f800000u;
#endif
}

struct Block {
  int image, chain, threads;

  template <typename Work>
  LRCLR_BOTH void phase(const Work &work) const {
#if defined(__CUDA_ARCH__)
    work(int(threadIdx.x));
    __syncthreads();
#else
    for (int thread = 0; thread < threads; ++thread) work(thread);
#endif
  }
};

// The first row of an image's map of a layer, of one head.
template <typename Map>
LRCLR_BOTH const Map *map_of(const Scratch &scratch, const Shape &shape, const Block &block, int layer, int head) {
  const size_t rows = layer == shape.layers - 1 ? shape.last_rows : shape.nodes;
  const size_t one = rows * shape.nodes;
  return static_cast<const Map *>(scratch.maps[layer]) + (size_t(block.image) * shape.heads + head) * one;
}

// An element averaged over the heads. `first` is of head 0; heads lie `stride` apart.
template <typename Map>
LRCLR_BOTH float averaged(const Map *first, size_t stride, int heads) {
  float sum = 0.0f;
  for (int head = 0; head < heads; ++head) sum += as_float(first[head * stride]);
  return sum / float(heads);
}

// scratch.total = the sum of scratch.row.
LRCLR_BOTH inline void add_up_row(const Block &block, const Shape &shape, Scratch &scratch) {
  block.phase([&](int thread) {
    float sum = 0.0f;
    for (int node = thread; node < shape.nodes; node += block.threads) sum += scratch.row[node];
    scratch.partial[thread] = sum;
  });
  block.phase([&](int thread) {
    if (thread >= kWarp) return;
    float sum = 0.0f;
    for (int other = thread; other < block.threads; other += kWarp) sum += scratch.partial[other];
    scratch.partial[thread] = sum;
  });
  block.phase([&](int thread) {
    if (thread != 0) return;
    float sum = 0.0f;
    for (int other = 0; other < kWarp; ++other) sum += scratch.partial[other];
    scratch.total = sum;
  });
}

// scratch.row = what CLS pays to each node in the last layer.
template <typename Map>
LRCLR_BOTH void begin_row(const Block &block, const Shape &shape, Scratch &scratch) {
  const int last = shape.layers - 1;
  if (!shape.mean) {
    const Map *map = map_of<Map>(scratch, shape, block, last, block.chain);
    block.phase([&](int thread) {
      for (int node = thread; node < shape.nodes; node += block.threads) scratch.row[node] = as_float(map[node]);
    });
    return;
  }
  const Map *map = map_of<Map>(scratch, shape, block, last, 0);
  const size_t stride = size_t(shape.last_rows) * shape.nodes;
  block.phase([&](int thread) {
    for (int node = thread; node < shape.nodes; node += block.threads)
      scratch.row[node] = averaged(map + node, stride, shape.heads) + (node == 0 ? 1.0f : 0.0f);
  });
  add_up_row(block, shape, scratch);
  block.phase([&](int thread) {
    for (int node = thread; node < shape.nodes; node += block.threads) scratch.row[node] /= scratch.total;
  });
}

// scratch.row /= the sums of the rows that it will weigh: the mean map with the identity added has rows that sum to
// about two, and rollout wants one. A warp adds up a row; its sums lie in scratch.partial.
template <typename Map>
LRCLR_BOTH void renormalise(const Block &block, const Shape &shape, Scratch &scratch, const Map *map, size_t stride) {
  const int warps = block.threads / kWarp;
  for (int first = 0; first < shape.nodes; first += warps) {
    block.phase([&](int thread) {
      const int node = first + thread / kWarp;
      if (node >= shape.nodes) return;
      float sum = 0.0f;
      for (int column = thread % kWarp; column < shape.nodes; column += kWarp)
        sum += averaged(map + size_t(node) * shape.nodes + column, stride, shape.heads) + (column == node ? 1.0f : 0.0f);
      scratch.partial[thread] = sum;
    });
    block.phase([&](int thread) {
      const int node = first + thread;
      if (thread >= warps || node >= shape.nodes) return;
      float sum = 0.0f;
      for (int lane = 0; lane < kWarp; ++lane) sum += scratch.partial[thread * kWarp + lane];
      scratch.row[node] /= sum;
    });
  }
}

// scratch.row = scratch.row times the map. Threads side by side take columns side by side; where there are more threads
// than columns, they share the rows out, and what they found is added up.
template <typename Map>
LRCLR_BOTH void through_layer(const Block &block, const Shape &shape, Scratch &scratch, int layer) {
  const Map *map = map_of<Map>(scratch, shape, block, layer, shape.mean ? 0 : block.chain);
  const size_t stride = size_t(shape.nodes) * shape.nodes;
  if (shape.mean) renormalise(block, shape, scratch, map, stride);
  const int columns = (shape.nodes + kWarp - 1) / kWarp * kWarp;
  const int slices = block.threads / columns > 1 ? block.threads / columns : 1;
  block.phase([&](int thread) {
    for (int place = thread; place < slices * columns; place += block.threads) {
      const int column = place % columns, slice = place / columns;
      if (column >= shape.nodes) continue;
      float sum = 0.0f;
      if (shape.mean) {
        for (int node = slice; node < shape.nodes; node += slices) {
          const float mean = averaged(map + size_t(node) * shape.nodes + column, stride, shape.heads);
          sum += scratch.row[node] * (mean + (column == node ? 1.0f : 0.0f));
        }
      } else {
#if defined(__CUDA_ARCH__)
#pragma unroll 8
#endif
        for (int node = slice; node < shape.nodes; node += slices)
          sum += scratch.row[node] * as_float(map[size_t(node) * shape.nodes + column]);
      }
      scratch.partial[place] = sum;
    }
  });
  block.phase([&](int thread) {
    for (int node = thread; node < shape.nodes; node += block.threads) {
      float sum = 0.0f;
      for (int slice = 0; slice < slices; ++slice) sum += scratch.partial[slice * columns + node];
      scratch.row[node] = sum;
    }
  });
}

// scratch.picked = the patches of greatest importance, the lower number first among equals. A patch's place is the
// number of patches before it, so nothing is ever swapped. What is not finite comes last, and is remembered.
LRCLR_BOTH inline void pick(const Block &block, const Shape &shape, Scratch &scratch) {
  block.phase([&](int thread) {
    if (thread == 0) scratch.spoilt = 0;
  });
  block.phase([&](int thread) {
    for (int node = 1 + thread; node < shape.nodes; node += block.threads) {
      if (finite(scratch.row[node])) continue;
      scratch.row[node] = from_bits(0xff800000u);
      scratch.spoilt = 1;
    }
  });
  block.phase([&](int thread) {
    for (int node = 1 + thread; node < shape.nodes; node += block.threads) {
      const float mine = scratch.row[node];
      int before = 0;
      for (int other = 1; other < shape.nodes; ++other) {
        const float theirs = scratch.row[other];
        before += theirs > mine || (theirs == mine && other < node);
      }
      if (before < shape.top_k) scratch.picked[before] = node - 1;
    }
  });
}

// Copy `count` bytes with a part of a block's threads; both ends are aligned alike, or to bytes.
template <typename Unit>
LRCLR_BOTH void copy_rows(const Block &block, const Shape &shape, const Scratch &scratch, const char *from, char *to) {
  const int units = shape.row_bytes / int(sizeof(Unit));
  const int own = shape.top_k * units, cls = block.chain == 0 ? units : 0;
  block.phase([&](int thread) {
    for (int unit = thread; unit < own + cls; unit += block.threads) {
      const bool picked = unit < own;
      const int rank = picked ? unit / units : 0, place = picked ? unit % units : unit - own;
      const size_t source = picked ? size_t(scratch.picked[rank]) + 1 : 0;
      const size_t target = picked ? size_t(1) + size_t(block.chain) * shape.top_k + rank : 0;
      reinterpret_cast<Unit *>(to + target * shape.row_bytes)[place] =
          reinterpret_cast<const Unit *>(from + source * shape.row_bytes)[place];
    }
  });
}

struct alignas(16) Sixteen {
  uint32_t words[4];
};

// All of it. Of an image whose rollout is not finite, the chain's importance is NaN throughout, which whoever reads it
// must look for; its tokens and indices are of the patches that were finite.
template <typename Map>
LRCLR_BOTH void select_regions(const Block &block, const Shape &shape, Scratch &scratch, const void *tokens,
                               void *region_tokens, long long *region_index, float *region_importance) {
  begin_row<Map>(block, shape, scratch);
  for (int layer = shape.layers - 2; layer >= 0; --layer) through_layer<Map>(block, shape, scratch, layer);
  pick(block, shape, scratch);
  const int regions = shape.chains() * shape.top_k;
  block.phase([&](int thread) {
    for (int rank = thread; rank < shape.top_k; rank += block.threads) {
      const size_t place = size_t(block.image) * regions + size_t(block.chain) * shape.top_k + rank;
      region_index[place] = scratch.picked[rank];
      region_importance[place] = scratch.spoilt ? from_bits(0x7fc00000u) : scratch.row[scratch.picked[rank] + 1];
    }
  });
  const char *from = static_cast<const char *>(tokens) + size_t(block.image) * shape.nodes * shape.row_bytes;
  char *to = static_cast<char *>(region_tokens) + size_t(block.image) * (regions + 1) * shape.row_bytes;
  const size_t odd = reinterpret_cast<size_t>(from) | reinterpret_cast<size_t>(to) | size_t(shape.row_bytes);
  if (odd % sizeof(Sixteen) == 0)
    copy_rows<Sixteen>(block, shape, scratch, from, to);
  else
    copy_rows<uint16_t>(block, shape, scratch, from, to);
}

}  // namespace lrclr

#if defined(__CUDACC__)

// For TensorRT, which passes every input as an argument of its own: a kernel for each number of layers.
#define LRCLR_MAPS_1 const void *map_0
#define LRCLR_MAPS_2 LRCLR_MAPS_1, const void *map_1
#define LRCLR_MAPS_3 LRCLR_MAPS_2, const void *map_2
#define LRCLR_MAPS_4 LRCLR_MAPS_3, const void *map_3
#define LRCLR_MAPS_5 LRCLR_MAPS_4, const void *map_4
#define LRCLR_MAPS_6 LRCLR_MAPS_5, const void *map_5
#define LRCLR_MAPS_7 LRCLR_MAPS_6, const void *map_6
#define LRCLR_MAPS_8 LRCLR_MAPS_7, const void *map_7
#define LRCLR_MAPS_9 LRCLR_MAPS_8, const void *map_8
#define LRCLR_MAPS_10 LRCLR_MAPS_9, const void *map_9
#define LRCLR_MAPS_11 LRCLR_MAPS_10, const void *map_10
#define LRCLR_MAPS_12 LRCLR_MAPS_11, const void *map_11
#define LRCLR_MAPS_13 LRCLR_MAPS_12, const void *map_12
#define LRCLR_MAPS_14 LRCLR_MAPS_13, const void *map_13
#define LRCLR_MAPS_15 LRCLR_MAPS_14, const void *map_14
#define LRCLR_MAPS_16 LRCLR_MAPS_15, const void *map_15
#define LRCLR_MAPS_17 LRCLR_MAPS_16, const void *map_16
#define LRCLR_MAPS_18 LRCLR_MAPS_17, const void *map_17
#define LRCLR_MAPS_19 LRCLR_MAPS_18, const void *map_18
#define LRCLR_MAPS_20 LRCLR_MAPS_19, const void *map_19
#define LRCLR_MAPS_21 LRCLR_MAPS_20, const void *map_20
#define LRCLR_MAPS_22 LRCLR_MAPS_21, const void *map_21
#define LRCLR_MAPS_23 LRCLR_MAPS_22, const void *map_22
#define LRCLR_MAPS_24 LRCLR_MAPS_23, const void *map_23
#define LRCLR_KEEP_1 scratch.maps[0] = map_0;
#define LRCLR_KEEP_2 LRCLR_KEEP_1 scratch.maps[1] = map_1;
#define LRCLR_KEEP_3 LRCLR_KEEP_2 scratch.maps[2] = map_2;
#define LRCLR_KEEP_4 LRCLR_KEEP_3 scratch.maps[3] = map_3;
#define LRCLR_KEEP_5 LRCLR_KEEP_4 scratch.maps[4] = map_4;
#define LRCLR_KEEP_6 LRCLR_KEEP_5 scratch.maps[5] = map_5;
#define LRCLR_KEEP_7 LRCLR_KEEP_6 scratch.maps[6] = map_6;
#define LRCLR_KEEP_8 LRCLR_KEEP_7 scratch.maps[7] = map_7;
#define LRCLR_KEEP_9 LRCLR_KEEP_8 scratch.maps[8] = map_8;
#define LRCLR_KEEP_10 LRCLR_KEEP_9 scratch.maps[9] = map_9;
#define LRCLR_KEEP_11 LRCLR_KEEP_10 scratch.maps[10] = map_10;
#define LRCLR_KEEP_12 LRCLR_KEEP_11 scratch.maps[11] = map_11;
#define LRCLR_KEEP_13 LRCLR_KEEP_12 scratch.maps[12] = map_12;
#define LRCLR_KEEP_14 LRCLR_KEEP_13 scratch.maps[13] = map_13;
#define LRCLR_KEEP_15 LRCLR_KEEP_14 scratch.maps[14] = map_14;
#define LRCLR_KEEP_16 LRCLR_KEEP_15 scratch.maps[15] = map_15;
#define LRCLR_KEEP_17 LRCLR_KEEP_16 scratch.maps[16] = map_16;
#define LRCLR_KEEP_18 LRCLR_KEEP_17 scratch.maps[17] = map_17;
#define LRCLR_KEEP_19 LRCLR_KEEP_18 scratch.maps[18] = map_18;
#define LRCLR_KEEP_20 LRCLR_KEEP_19 scratch.maps[19] = map_19;
#define LRCLR_KEEP_21 LRCLR_KEEP_20 scratch.maps[20] = map_20;
#define LRCLR_KEEP_22 LRCLR_KEEP_21 scratch.maps[21] = map_21;
#define LRCLR_KEEP_23 LRCLR_KEEP_22 scratch.maps[22] = map_22;
#define LRCLR_KEEP_24 LRCLR_KEEP_23 scratch.maps[23] = map_23;

// Called and not inlined: fifteen copies of the work would be a megabyte of PTX.
__device__ __noinline__ void select_shared(lrclr::Shape shape, lrclr::Scratch &scratch, const void *tokens,
                                           void *region_tokens, long long *region_index, float *region_importance) {
  const lrclr::Block block = {int(blockIdx.y), int(blockIdx.x), int(blockDim.x)};
  lrclr::select_regions<float>(block, shape, scratch, tokens, region_tokens, region_index, region_importance);
}

#define LRCLR_KERNEL(LAYERS)                                                                                         \
  extern "C" __global__ void __launch_bounds__(lrclr::kMaxThreads) region_select_##LAYERS(                           \
      const void *tokens, LRCLR_MAPS_##LAYERS, int heads, int mean, int nodes, int last_rows, int top_k,             \
      int row_bytes, void *region_tokens, long long *region_index, float *region_importance) {                       \
    __shared__ lrclr::Scratch scratch;                                                                               \
    if (threadIdx.x == 0) {                                                                                          \
      LRCLR_KEEP_##LAYERS                                                                                            \
    }                                                                                                                \
    __syncthreads();                                                                                                 \
    const lrclr::Shape shape = {LAYERS, heads, mean, nodes, last_rows, top_k, row_bytes};                            \
    select_shared(shape, scratch, tokens, region_tokens, region_index, region_importance);                           \
  }

LRCLR_KERNEL(2) LRCLR_KERNEL(3) LRCLR_KERNEL(4) LRCLR_KERNEL(5) LRCLR_KERNEL(6) LRCLR_KERNEL(7) LRCLR_KERNEL(8)
LRCLR_KERNEL(9) LRCLR_KERNEL(10) LRCLR_KERNEL(11) LRCLR_KERNEL(12) LRCLR_KERNEL(16) LRCLR_KERNEL(18) LRCLR_KERNEL(20)
LRCLR_KERNEL(24)

// For PyTorch, whose maps are of any type: one kernel, for any number of layers.
struct Maps {
  const void *of_layer[lrclr::kMaxLayers];
};

template <typename Map>
__device__ void select_any(const Maps &maps, const lrclr::Shape &shape, const void *tokens, void *region_tokens,
                           long long *region_index, float *region_importance) {
  __shared__ lrclr::Scratch scratch;
  if (threadIdx.x < shape.layers) scratch.maps[threadIdx.x] = maps.of_layer[threadIdx.x];
  __syncthreads();
  const lrclr::Block block = {int(blockIdx.y), int(blockIdx.x), int(blockDim.x)};
  lrclr::select_regions<Map>(block, shape, scratch, tokens, region_tokens, region_index, region_importance);
}

#define LRCLR_ANY(NAME, MAP)                                                                                          \
  extern "C" __global__ void __launch_bounds__(lrclr::kMaxThreads)                                                   \
      region_select_##NAME(const __grid_constant__ Maps maps, const __grid_constant__ lrclr::Shape shape,            \
                           const void *tokens, void *region_tokens, long long *region_index,                         \
                           float *region_importance) {                                                               \
    select_any<MAP>(maps, shape, tokens, region_tokens, region_index, region_importance);                            \
  }

LRCLR_ANY(float32, float) LRCLR_ANY(float16, lrclr::Half) LRCLR_ANY(bfloat16, lrclr::Bfloat)

#else

// The same work on a host, block by block and thread by thread. `type`: 0 float32, 1 float16, 2 bfloat16.
extern "C" void lrclr_region_select(int type, int threads, int images, const void *const *maps, const lrclr::Shape *shape,
                                    const void *tokens, void *region_tokens, long long *region_index,
                                    float *region_importance) {
  static lrclr::Scratch scratch;
  for (int image = 0; image < images; ++image)
    for (int chain = 0; chain < shape->chains(); ++chain) {
      // What one block left behind must not help the next.
      char *bytes = reinterpret_cast<char *>(&scratch);
      for (size_t place = 0; place < sizeof scratch; ++place) bytes[place] = char(0xff);
      for (int layer = 0; layer < shape->layers; ++layer) scratch.maps[layer] = maps[layer];
      const lrclr::Block block = {image, chain, threads};
      auto run = type == 0   ? lrclr::select_regions<float>
                 : type == 1 ? lrclr::select_regions<lrclr::Half>
                             : lrclr::select_regions<lrclr::Bfloat>;
      run(block, *shape, scratch, tokens, region_tokens, region_index, region_importance);
    }
}

#endif
