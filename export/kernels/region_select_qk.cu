// Region selection from queries and keys: the attention rollout of a start row through the layers, top-k, and the gather
// of the picked tokens. It gives what region_select.cu gives from attention maps, but computes the maps again from the
// layers' queries and keys, so that no layer has to write its map and attention can stay fused.
//
// For each chain (an image and a head) and each layer, from the last but one to the first:
//   s[i, j] = scale q[i] . k[j]      float16 products, float32 sums (tensor cores)
//   p[i, :] = softmax(s[i, :])       float32
//   row[j] <- sum over i of row[i] p[i, j]
// With `mean`, a layer's p is averaged over the heads, the identity is added, and the rows are divided by their sum (two).
//
// A warp computes the scores of 16 queries by 8 * kTiles keys and keeps them in registers until the rows' sums are known.
// Three forms, by the number of tokens:
// - up to 64: four warps compute a map; the next map's queries and keys are copied to shared memory meanwhile.
// - up to 608: each warp keeps five tiles of keys in registers, and the block goes through the queries. The blocks of a
//   cluster share the queries, which is faster for few images.
// - up to 1,088: as above, but the keys do not fit in the registers and are loaded for each tile of queries.

#include "selection.h"

namespace lrclr {

constexpr int kHeadWidth = 64;
constexpr int kMaxPairs = 23;

struct Sizes {
  int layers, heads, mean, nodes, prefix, top_k, row_bytes;
  // Elements from a token's query (and key) to the next one's: heads * 64, or more where products were merged.
  int row_stride;
  float scale;
};

// Queries and keys of the layers before the last, float16 [B, nodes, heads, 64]; the last layer's attention of the start
// row, float32 [B, heads, nodes], or [B, 1, nodes] with `mean`.
struct Inputs {
  const void *tokens;
  const float *start;
  const void *queries[kMaxPairs];
  const void *keys[kMaxPairs];
};

struct Outputs {
  void *region_tokens;
  long long *region_index;
  float *region_importance;
};

// What the threads of a block share. `kWarps` side by side write to `partial`.
template <int kColumns, int kWarps>
struct Common {
  Inputs inputs;
  float row[kColumns];
  float partial[kWarps][kColumns];
  int picked[kMaxTopK];
  int spoilt;
};

struct SmallScratch : Common<64, 4> {
  static constexpr int kColumns = 64;
  Words queries[2][64][8], keys[2][64][8];
  float layer[64];
};

constexpr int kMaxGroups = 16;

template <int kNodes>
struct LargeScratch : Common<kNodes, 1> {
  static constexpr int kColumns = kNodes;
  // What one block of a cluster adds to the next row. Two take turns, so that one cluster barrier a layer is enough.
  float share[2][kNodes];
  // Of each row of a tile and each warp: the greatest score and the sum of the exponentials. Two take turns.
  float greatest[2][16][kMaxGroups], total[2][16][kMaxGroups];
};

constexpr float kLog2E = 1.44269504088896341f;

// A thread's part of a tile: row `pair` and `pair + 8`, columns 2 * `column` and the next.
struct Place {
  int warp, pair, column;
};

LRCLR_DEVICE Place place_of(int thread) { return {thread / kWarp, thread % kWarp / 4, thread % 4}; }

// A thread's part of a row: 16 elements as two loads of 16 bytes. The product of two rows is the same whatever order
// their elements are multiplied in, so each load takes eight neighbours, and the tensor cores see them in another order.
struct RowPart {
  Words half[2];
};

template <typename Element>
LRCLR_DEVICE RowPart load_part(const Element *rows, int row, const Sizes &sizes, int column) {
  const Element *own = rows + size_t(row < sizes.nodes ? row : sizes.nodes - 1) * sizes.row_stride + 8 * column;
  return {{load_words(own), load_words(own + 32)}};
}

// In shared memory, chunks of odd rows are swapped, so that eight threads that read two rows use all banks once.
LRCLR_DEVICE int chunk_of(int row, int chunk) { return chunk ^ (row & 1) << 2; }

LRCLR_DEVICE RowPart shared_part(const Words (*rows)[8], int row, const Sizes &sizes, int column) {
  const int clamped = row < sizes.nodes ? row : sizes.nodes - 1;
  return {{rows[clamped][chunk_of(clamped, column)], rows[clamped][chunk_of(clamped, column + 4)]}};
}

// scores = query . key for 16 queries and 8 keys; minus infinity for keys beyond the last.
template <typename Element>
LRCLR_DEVICE void score_tile(const RowPart &upper, const RowPart &lower, const RowPart &key, const Sizes &sizes, const Place &place,
                             int first_column, float (&scores)[4]) {
  for (float &score : scores) score = 0.0f;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const int half = step / 2, word = step % 2 * 2;
    const uint32_t a[4] = {upper.half[half].at[word], lower.half[half].at[word], upper.half[half].at[word + 1],
                           lower.half[half].at[word + 1]};
    multiply_add(scores, a, key.half[half].at[word], key.half[half].at[word + 1], Element());
  }
  if (first_column + 8 > sizes.nodes) {
#pragma unroll
    for (int each = 0; each < 4; ++each)
      if (first_column + 2 * place.column + each % 2 >= sizes.nodes) scores[each] = from_bits(kMinusInfinity);
  }
}

// scores = 2 ** (factor * (scores - greatest)), with the greatest of a row's scores and the row's sum over this warp's
// columns, for the two rows that this thread holds a part of.
template <int kTiles>
LRCLR_DEVICE void exponentials(float factor, int tiles, float (&scores)[kTiles][4], float (&greatest)[2], float (&total)[2]) {
  const float minus_infinity = from_bits(kMinusInfinity);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    greatest[half] = minus_infinity;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
      if (tile < tiles) greatest[half] = fmaxf(greatest[half], fmaxf(scores[tile][2 * half], scores[tile][2 * half + 1]));
    greatest[half] = fmaxf(greatest[half], shuffle_xor(greatest[half], 1));
    greatest[half] = fmaxf(greatest[half], shuffle_xor(greatest[half], 2));
    // Where a warp has no columns, or all scores are NaN, no number may be subtracted that is not finite.
    const float offset = greatest[half] == minus_infinity ? 0.0f : factor * greatest[half];
    total[half] = 0.0f;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (tile >= tiles) continue;
#pragma unroll
      for (int each = 2 * half; each < 2 * half + 2; ++each) {
        scores[tile][each] = exp2_of(fmaf(scores[tile][each], factor, -offset));
        total[half] += scores[tile][each];
      }
    }
    total[half] += shuffle_xor(total[half], 1);
    total[half] += shuffle_xor(total[half], 2);
  }
}

// Add up what the eight row pairs of a warp hold of each column, and write it.
template <int kTiles>
LRCLR_DEVICE void write_columns(const Place &place, int first_tile, int tiles, float (&sums)[kTiles][2], float *partial) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if (tile >= tiles) continue;
#pragma unroll
    for (int each = 0; each < 2; ++each) {
      float sum = sums[tile][each];
      for (int mask = 4; mask < kWarp; mask *= 2) sum += shuffle_xor(sum, mask);
      if (place.pair == 0) partial[8 * (first_tile + tile) + 2 * place.column + each] = sum;
    }
  }
}

// scratch.row = the start row's attention in the last layer. With `mean` it comes averaged over the heads; a CLS token, which
// is node 0, also keeps itself.
template <typename Scratch>
LRCLR_DEVICE void begin_row(const Sizes &sizes, int image, int chain, int threads, const float *start, Scratch &scratch) {
  const float *own = start + (size_t(image) * (sizes.mean ? 1 : sizes.heads) + chain) * sizes.nodes;
  for (int node = thread_index(); node < Scratch::kColumns; node += threads) {
    float value = node < sizes.nodes ? own[node] : 0.0f;
    if (sizes.mean && sizes.prefix) value = 0.5f * (value + (node == 0 ? 1.0f : 0.0f));
    scratch.row[node] = value;
  }
}

template <typename Scratch>
LRCLR_DEVICE void finish(const Sizes &sizes, const Inputs &inputs, const Outputs &outputs, int image, int chain, int threads,
                         Scratch &scratch) {
  const Selection call = {sizes.nodes,     sizes.prefix,  sizes.top_k,           sizes.mean ? 1 : sizes.heads,
                          sizes.row_bytes, inputs.tokens, outputs.region_tokens, outputs.region_index,
                          outputs.region_importance};
  pick(call, threads, scratch.row, scratch.picked, &scratch.spoilt);
  write_selection(call, image, chain, threads, scratch.row, scratch.picked, scratch.spoilt);
}

// The maps of a chain in the order in which it takes them: the last layer first, and with `mean` the heads within a layer.
template <typename Element>
struct Maps {
  const Sizes &sizes;
  const Inputs &inputs;
  int image, chain, heads, count;

  LRCLR_DEVICE Maps(const Sizes &sizes, const Inputs &inputs, int image, int chain)
      : sizes(sizes), inputs(inputs), image(image), chain(chain), heads(sizes.mean ? sizes.heads : 1),
        count((sizes.layers - 1) * heads) {}
  LRCLR_DEVICE const Element *of(const void *const *tensors, int map) const {
    const int layer = sizes.layers - 2 - map / heads, head = sizes.mean ? map % heads : chain;
    return static_cast<const Element *>(tensors[layer]) + size_t(image) * sizes.nodes * sizes.row_stride + head * kHeadWidth;
  }
  LRCLR_DEVICE bool begins_layer(int map) const { return map % heads == 0; }
  LRCLR_DEVICE bool ends_layer(int map) const { return map % heads == heads - 1; }
};

// Up to 64 tokens: 128 threads.
template <typename Element>
LRCLR_DEVICE void select_small(const Sizes &sizes, const Inputs &inputs, const Outputs &outputs, int image, int chain,
                               SmallScratch &scratch) {
  constexpr int kTiles = 8, kThreads = 128;
  const int thread = thread_index(), tiles = (sizes.nodes + 7) / 8;
  const Place place = place_of(thread);
  const Maps<Element> maps(sizes, inputs, image, chain);
  const float factor = sizes.scale * kLog2E;

  const auto begin_copies = [&](int map) {
    if (map < maps.count) {
      const Element *queries = maps.of(inputs.queries, map), *keys = maps.of(inputs.keys, map);
      for (int row = thread / 8; row < sizes.nodes; row += kThreads / 8) {
        const int chunk = thread % 8, to = chunk_of(row, chunk);
        copy_words(&scratch.queries[map % 2][row][to], queries + size_t(row) * sizes.row_stride + 8 * chunk);
        copy_words(&scratch.keys[map % 2][row][to], keys + size_t(row) * sizes.row_stride + 8 * chunk);
      }
    }
    copies_begun();
  };

  begin_copies(0);
  begin_row(sizes, image, chain, kThreads, inputs.start, scratch);
  for (int map = 0; map < maps.count; ++map) {
    begin_copies(map + 1);
    wait_for_copies<1>();
    sync_block();
    float scores[kTiles][4], greatest[2], total[2];
    const RowPart upper = shared_part(scratch.queries[map % 2], 16 * place.warp + place.pair, sizes, place.column),
                  lower = shared_part(scratch.queries[map % 2], 16 * place.warp + place.pair + 8, sizes, place.column);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
      if (tile < tiles)
        score_tile<Element>(upper, lower, shared_part(scratch.keys[map % 2], 8 * tile + place.pair, sizes, place.column), sizes,
                            place, 8 * tile, scores[tile]);
    exponentials(factor, tiles, scores, greatest, total);
    // Rows beyond the last one weigh nothing: scratch.row is zero there.
    const float weight_upper = scratch.row[16 * place.warp + place.pair] / total[0],
                weight_lower = scratch.row[16 * place.warp + place.pair + 8] / total[1];
    float sums[kTiles][2];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      sums[tile][0] = weight_upper * scores[tile][0] + weight_lower * scores[tile][2];
      sums[tile][1] = weight_upper * scores[tile][1] + weight_lower * scores[tile][3];
    }
    write_columns(place, 0, tiles, sums, scratch.partial[place.warp]);
    sync_block();
    if (thread < sizes.nodes) {
      float sum = maps.begins_layer(map) ? 0.0f : scratch.layer[thread];
      for (int warp = 0; warp < 4; ++warp) sum += scratch.partial[warp][thread];
      if (!maps.ends_layer(map))
        scratch.layer[thread] = sum;
      else
        scratch.row[thread] = sizes.mean ? 0.5f * (scratch.row[thread] + sum / float(maps.heads)) : sum;
    }
  }
  sync_block();
  finish(sizes, inputs, outputs, image, chain, kThreads, scratch);
}

// More than 64 tokens. The warps of a block share the keys; `blocks` blocks of a cluster share the queries.
template <int kTiles, bool kKeepKeys, int kNodes, typename Element>
LRCLR_DEVICE void select_large(const Sizes &sizes, const Inputs &inputs, const Outputs &outputs, int image, int chain, int blocks,
                               int groups, LargeScratch<kNodes> &scratch) {
  const int thread = thread_index(), threads = groups * kWarp, block = blocks == 1 ? 0 : cluster_rank();
  const Place place = place_of(thread);
  const Maps<Element> maps(sizes, inputs, image, chain);
  const float factor = sizes.scale * kLog2E;
  const int all_tiles = (sizes.nodes + 7) / 8, row_tiles = (sizes.nodes + 15) / 16;
  // Tiles of keys are shared out evenly.
  const int first_tile = all_tiles * place.warp / groups, tiles = all_tiles * (place.warp + 1) / groups - first_tile;

  RowPart keys[kKeepKeys ? kTiles : 1], upper, lower;
  const auto load_keys = [&](int map) {
#pragma unroll
    for (int tile = 0; tile < (kKeepKeys ? kTiles : 0); ++tile)
      keys[tile] = load_part(maps.of(inputs.keys, map), 8 * (first_tile + tile) + place.pair, sizes, place.column);
  };
  const auto load_queries = [&](int map, int tile) {
    const Element *queries = maps.of(inputs.queries, map);
    upper = load_part(queries, 16 * tile + place.pair, sizes, place.column);
    lower = load_part(queries, 16 * tile + place.pair + 8, sizes, place.column);
  };

  if (maps.count > 0) {
    load_keys(0);
    load_queries(0, block);
  }
  begin_row(sizes, image, chain, threads, inputs.start, scratch);
  sync_block();
  float sums[kTiles][2];
  int turn = 0, exchanged = 0;
  for (int map = 0; map < maps.count; ++map) {
    if (maps.begins_layer(map)) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) sums[tile][0] = sums[tile][1] = 0.0f;
    }
    for (int row_tile = block; row_tile < row_tiles; row_tile += blocks) {
      float scores[kTiles][4], greatest[2], total[2], weight[2];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if (tile >= tiles) continue;
        const int first = 8 * (first_tile + tile);
        if (kKeepKeys)
          score_tile<Element>(upper, lower, keys[tile], sizes, place, first, scores[tile]);
        else
          score_tile<Element>(upper, lower, load_part(maps.of(inputs.keys, map), first + place.pair, sizes, place.column), sizes,
                              place, first, scores[tile]);
      }
      // Loads for the next step are under way while this one goes on.
      if (row_tile + blocks < row_tiles) {
        load_queries(map, row_tile + blocks);
      } else if (map + 1 < maps.count) {
        load_keys(map + 1);
        load_queries(map + 1, block);
      }
      exponentials(factor, tiles, scores, greatest, total);
      exchanged ^= 1;
      if (place.column < 2) {
        scratch.greatest[exchanged][place.pair + 8 * place.column][place.warp] = place.column ? greatest[1] : greatest[0];
        scratch.total[exchanged][place.pair + 8 * place.column][place.warp] = place.column ? total[1] : total[0];
      }
      sync_block();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = place.pair + 8 * half;
        const float *all_greatest = scratch.greatest[exchanged][row], *all_total = scratch.total[exchanged][row];
        // The four threads of a row share the warps out.
        float most = from_bits(kMinusInfinity), sum = 0.0f;
        for (int group = place.column; group < groups; group += 4) most = fmaxf(most, all_greatest[group]);
        most = fmaxf(most, shuffle_xor(most, 1));
        most = fmaxf(most, shuffle_xor(most, 2));
        for (int group = place.column; group < groups; group += 4)
          sum += all_total[group] * exp2_of(factor * (all_greatest[group] - most));
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        // Rows beyond the last one weigh nothing.
        const int node = 16 * row_tile + row;
        weight[half] = node < sizes.nodes ? scratch.row[node] * exp2_of(factor * (greatest[half] - most)) / sum : 0.0f;
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if (tile >= tiles) continue;
#pragma unroll
        for (int each = 0; each < 2; ++each)
          sums[tile][each] += weight[0] * scores[tile][each] + weight[1] * scores[tile][2 + each];
      }
    }
    if (!maps.ends_layer(map)) continue;
    float *share = scratch.share[turn];
    turn ^= 1;
    write_columns(place, first_tile, tiles, sums, share);
    if (blocks > 1)
      sync_cluster();
    else
      sync_block();
    for (int node = thread; node < sizes.nodes; node += threads) {
      float sum = 0.0f;
      if (blocks == 1)
        sum = share[node];
      else
        for (int other = 0; other < blocks; ++other) sum += load_of_block(&share[node], other);
      scratch.row[node] = sizes.mean ? 0.5f * (scratch.row[node] + sum / float(maps.heads)) : sum;
    }
    sync_block();
  }
  if (block == 0) finish(sizes, inputs, outputs, image, chain, threads, scratch);
  // Other blocks may still read this block's shared memory.
  if (blocks > 1) sync_cluster();
}

}  // namespace lrclr

#if defined(__CUDACC__)

#if __CUDA_ARCH__ >= 900
#define LRCLR_CLUSTER(BLOCKS) __cluster_dims__(BLOCKS, 1, 1)
#else
#define LRCLR_CLUSTER(BLOCKS)
#endif

// Called and not inlined: a copy of the work for each number of layers would be megabytes of PTX.
__device__ __noinline__ void select_64(lrclr::Sizes sizes, lrclr::Outputs outputs, lrclr::SmallScratch &scratch) {
  lrclr::select_small<lrclr::Half>(sizes, scratch.inputs, outputs, blockIdx.y, blockIdx.x, scratch);
}

#define LRCLR_LARGE(NODES, TILES, KEEP, BLOCKS)                                                                          \
  __device__ __noinline__ void select_##NODES##c##BLOCKS(lrclr::Sizes sizes, lrclr::Outputs outputs,                     \
                                                         lrclr::LargeScratch<NODES> &scratch) {                          \
    lrclr::select_large<TILES, KEEP, NODES, lrclr::Half>(sizes, scratch.inputs, outputs, blockIdx.y, blockIdx.x / BLOCKS, \
                                                         BLOCKS, blockDim.x / lrclr::kWarp, scratch);                    \
  }
LRCLR_LARGE(608, 5, true, 1)
LRCLR_LARGE(608, 5, true, 8)
LRCLR_LARGE(1088, 9, false, 1)
LRCLR_LARGE(1088, 9, false, 8)

// TensorRT passes every input as an argument of its own, so there is an entry for each number of layers: `PAIRS` are the
// layers before the last.
#define LRCLR_PAIRS_1 const void *query_0, const void *key_0
#define LRCLR_KEEP_1 scratch.inputs.queries[0] = query_0; scratch.inputs.keys[0] = key_0;
#define LRCLR_PAIRS_2 LRCLR_PAIRS_1, const void *query_1, const void *key_1
#define LRCLR_KEEP_2 LRCLR_KEEP_1 scratch.inputs.queries[1] = query_1; scratch.inputs.keys[1] = key_1;
#define LRCLR_PAIRS_3 LRCLR_PAIRS_2, const void *query_2, const void *key_2
#define LRCLR_KEEP_3 LRCLR_KEEP_2 scratch.inputs.queries[2] = query_2; scratch.inputs.keys[2] = key_2;
#define LRCLR_PAIRS_4 LRCLR_PAIRS_3, const void *query_3, const void *key_3
#define LRCLR_KEEP_4 LRCLR_KEEP_3 scratch.inputs.queries[3] = query_3; scratch.inputs.keys[3] = key_3;
#define LRCLR_PAIRS_5 LRCLR_PAIRS_4, const void *query_4, const void *key_4
#define LRCLR_KEEP_5 LRCLR_KEEP_4 scratch.inputs.queries[4] = query_4; scratch.inputs.keys[4] = key_4;
#define LRCLR_PAIRS_6 LRCLR_PAIRS_5, const void *query_5, const void *key_5
#define LRCLR_KEEP_6 LRCLR_KEEP_5 scratch.inputs.queries[5] = query_5; scratch.inputs.keys[5] = key_5;
#define LRCLR_PAIRS_7 LRCLR_PAIRS_6, const void *query_6, const void *key_6
#define LRCLR_KEEP_7 LRCLR_KEEP_6 scratch.inputs.queries[6] = query_6; scratch.inputs.keys[6] = key_6;
#define LRCLR_PAIRS_8 LRCLR_PAIRS_7, const void *query_7, const void *key_7
#define LRCLR_KEEP_8 LRCLR_KEEP_7 scratch.inputs.queries[7] = query_7; scratch.inputs.keys[7] = key_7;
#define LRCLR_PAIRS_9 LRCLR_PAIRS_8, const void *query_8, const void *key_8
#define LRCLR_KEEP_9 LRCLR_KEEP_8 scratch.inputs.queries[8] = query_8; scratch.inputs.keys[8] = key_8;
#define LRCLR_PAIRS_10 LRCLR_PAIRS_9, const void *query_9, const void *key_9
#define LRCLR_KEEP_10 LRCLR_KEEP_9 scratch.inputs.queries[9] = query_9; scratch.inputs.keys[9] = key_9;
#define LRCLR_PAIRS_11 LRCLR_PAIRS_10, const void *query_10, const void *key_10
#define LRCLR_KEEP_11 LRCLR_KEEP_10 scratch.inputs.queries[10] = query_10; scratch.inputs.keys[10] = key_10;
#define LRCLR_PAIRS_12 LRCLR_PAIRS_11, const void *query_11, const void *key_11
#define LRCLR_KEEP_12 LRCLR_KEEP_11 scratch.inputs.queries[11] = query_11; scratch.inputs.keys[11] = key_11;
#define LRCLR_PAIRS_13 LRCLR_PAIRS_12, const void *query_12, const void *key_12
#define LRCLR_KEEP_13 LRCLR_KEEP_12 scratch.inputs.queries[12] = query_12; scratch.inputs.keys[12] = key_12;
#define LRCLR_PAIRS_14 LRCLR_PAIRS_13, const void *query_13, const void *key_13
#define LRCLR_KEEP_14 LRCLR_KEEP_13 scratch.inputs.queries[13] = query_13; scratch.inputs.keys[13] = key_13;
#define LRCLR_PAIRS_15 LRCLR_PAIRS_14, const void *query_14, const void *key_14
#define LRCLR_KEEP_15 LRCLR_KEEP_14 scratch.inputs.queries[14] = query_14; scratch.inputs.keys[14] = key_14;
#define LRCLR_PAIRS_16 LRCLR_PAIRS_15, const void *query_15, const void *key_15
#define LRCLR_KEEP_16 LRCLR_KEEP_15 scratch.inputs.queries[15] = query_15; scratch.inputs.keys[15] = key_15;
#define LRCLR_PAIRS_17 LRCLR_PAIRS_16, const void *query_16, const void *key_16
#define LRCLR_KEEP_17 LRCLR_KEEP_16 scratch.inputs.queries[16] = query_16; scratch.inputs.keys[16] = key_16;
#define LRCLR_PAIRS_18 LRCLR_PAIRS_17, const void *query_17, const void *key_17
#define LRCLR_KEEP_18 LRCLR_KEEP_17 scratch.inputs.queries[17] = query_17; scratch.inputs.keys[17] = key_17;
#define LRCLR_PAIRS_19 LRCLR_PAIRS_18, const void *query_18, const void *key_18
#define LRCLR_KEEP_19 LRCLR_KEEP_18 scratch.inputs.queries[18] = query_18; scratch.inputs.keys[18] = key_18;
#define LRCLR_PAIRS_20 LRCLR_PAIRS_19, const void *query_19, const void *key_19
#define LRCLR_KEEP_20 LRCLR_KEEP_19 scratch.inputs.queries[19] = query_19; scratch.inputs.keys[19] = key_19;
#define LRCLR_PAIRS_21 LRCLR_PAIRS_20, const void *query_20, const void *key_20
#define LRCLR_KEEP_21 LRCLR_KEEP_20 scratch.inputs.queries[20] = query_20; scratch.inputs.keys[20] = key_20;
#define LRCLR_PAIRS_22 LRCLR_PAIRS_21, const void *query_21, const void *key_21
#define LRCLR_KEEP_22 LRCLR_KEEP_21 scratch.inputs.queries[21] = query_21; scratch.inputs.keys[21] = key_21;
#define LRCLR_PAIRS_23 LRCLR_PAIRS_22, const void *query_22, const void *key_22
#define LRCLR_KEEP_23 LRCLR_KEEP_22 scratch.inputs.queries[22] = query_22; scratch.inputs.keys[22] = key_22;

#define LRCLR_ENTRY(FORM, BLOCKS, THREADS, MIN_BLOCKS, SCRATCH, PAIRS)                                                    \
  extern "C" __global__ void LRCLR_CLUSTER(BLOCKS) __launch_bounds__(THREADS, MIN_BLOCKS)                                \
      region_select_##FORM##_##PAIRS(const void *tokens, const float *start, LRCLR_PAIRS_##PAIRS, int heads, int mean,    \
                                     int nodes, int prefix, int top_k, int row_bytes, int row_stride, int scale_bits,    \
                                     void *region_tokens, long long *region_index, float *region_importance) {           \
    __shared__ SCRATCH scratch;                                                                                          \
    if (threadIdx.x == 0) {                                                                                              \
      scratch.inputs.tokens = tokens;                                                                                    \
      scratch.inputs.start = start;                                                                                      \
      LRCLR_KEEP_##PAIRS                                                                                                 \
    }                                                                                                                    \
    __syncthreads();                                                                                                     \
    const lrclr::Sizes sizes = {PAIRS + 1, heads,     mean,       nodes,                      prefix,                    \
                                top_k,     row_bytes, row_stride, lrclr::from_bits(scale_bits)};                         \
    const lrclr::Outputs outputs = {region_tokens, region_index, region_importance};                                     \
    select_##FORM(sizes, outputs, scratch);                                                                              \
  }

#ifndef LRCLR_SMALL_BLOCKS
#define LRCLR_SMALL_BLOCKS 5
#endif
#define LRCLR_ENTRIES(PAIRS)                                                            \
  LRCLR_ENTRY(64, 1, 128, LRCLR_SMALL_BLOCKS, lrclr::SmallScratch, PAIRS)                                \
  LRCLR_ENTRY(608c1, 1, 32 * lrclr::kMaxGroups, 1, lrclr::LargeScratch<608>, PAIRS)     \
  LRCLR_ENTRY(608c8, 8, 32 * lrclr::kMaxGroups, 1, lrclr::LargeScratch<608>, PAIRS)     \
  LRCLR_ENTRY(1088c1, 1, 32 * lrclr::kMaxGroups, 1, lrclr::LargeScratch<1088>, PAIRS)   \
  LRCLR_ENTRY(1088c8, 8, 32 * lrclr::kMaxGroups, 1, lrclr::LargeScratch<1088>, PAIRS)

LRCLR_ENTRIES(1) LRCLR_ENTRIES(2) LRCLR_ENTRIES(3) LRCLR_ENTRIES(4) LRCLR_ENTRIES(5) LRCLR_ENTRIES(6) LRCLR_ENTRIES(7)
LRCLR_ENTRIES(8) LRCLR_ENTRIES(9) LRCLR_ENTRIES(10) LRCLR_ENTRIES(11) LRCLR_ENTRIES(15) LRCLR_ENTRIES(17)
LRCLR_ENTRIES(19) LRCLR_ENTRIES(23)

#else

namespace {

template <typename Scratch, typename Run>
void on_host(const lrclr::Sizes &sizes, int images, int blocks, int threads, int order, unsigned seed, const Run &run) {
  const int chains = sizes.mean ? 1 : sizes.heads;
  for (int image = 0; image < images; ++image)
    for (int chain = 0; chain < chains; ++chain)
      lrclr::host::run_cluster(blocks, threads, sizeof(Scratch), lrclr::host::Order(order), seed, [&](int block) {
        run(image, chain, *static_cast<Scratch *>(lrclr::host::machine.all_blocks[block].shared));
      });
}

}  // namespace

// `form`: the most tokens that it takes. `order`: 0 forward, 1 reversed, 2 shuffled by `seed`. Returns whether there is such
// a form.
extern "C" int lrclr_region_select(int form, int images, int blocks, int threads, int order, unsigned seed,
                                   const lrclr::Inputs *inputs, const lrclr::Sizes *sizes, const lrclr::Outputs *outputs) {
  using namespace lrclr;
  switch (form) {
    case 64:
      on_host<SmallScratch>(*sizes, images, 1, threads, order, seed, [&](int image, int chain, SmallScratch &scratch) {
        select_small<Half>(*sizes, *inputs, *outputs, image, chain, scratch);
      });
      return 1;
    case 608:
      on_host<LargeScratch<608>>(*sizes, images, blocks, threads, order, seed, [&](int image, int chain, auto &scratch) {
        select_large<5, true, 608, Half>(*sizes, *inputs, *outputs, image, chain, blocks, threads / kWarp, scratch);
      });
      return 1;
    case 1088:
      on_host<LargeScratch<1088>>(*sizes, images, blocks, threads, order, seed, [&](int image, int chain, auto &scratch) {
        select_large<9, false, 1088, Half>(*sizes, *inputs, *outputs, image, chain, blocks, threads / kWarp, scratch);
      });
      return 1;
    default: return 0;
  }
}

#endif
