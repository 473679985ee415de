// Region selection in one launch: the attention rollout of a start row through the layers, top-k with stable ties, and the
// gather of the picked tokens beside CLS. It computes what the node lrclr::RegionSelectQK and lrclr.model.select_regions
// compute, but takes the layers' queries and keys instead of their attention maps and computes the maps again. So no layer
// has to write its map, and its attention can stay fused.
//
// For each chain (an image and a head) and each layer, from the last but one to the first:
//   s[i, j] = scale q[i] . k[j]      float16 products, float32 sums (tensor cores)
//   p[i, :] = softmax(s[i, :])       float32
//   row[j] <- sum over i of row[i] p[i, j]
// With `mean`, a layer's p is averaged over the heads, the identity is added, and the rows are divided by their sum (two).
//
// A layer takes two passes, each of which computes the scores again, so that no score is stored and warps exchange nothing
// but a few numbers a row:
// 1. Each warp takes some rows, goes through all keys, and finds each row's greatest score, as an offset of the exponent,
//    and its sum of exponentials. This does not depend on `row`.
// 2. Each warp takes some columns, goes through all queries, and adds up row[i] p[i, j].
// Pass 2 of one layer and pass 1 of the next need no barrier between them, so a layer has one barrier. The blocks of a
// cluster share the rows and columns of a chain, which is faster for few images.

#include "selection.h"

namespace lrclr {

constexpr int kMaxPairs = 27;

struct Sizes {
  int layers, heads, mean, nodes, prefix, top_k, row_bytes;
  // Elements from a token's query (and key) to the next one's: heads times their width, or more where products were merged.
  int row_stride;
  float scale;
};

// Queries and keys of the layers before the last, float16 [B, nodes, heads, width of a head]; the last layer's attention of the start
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

// What the threads of a block share. Two sets take turns: one is read while the other is written.
template <int kNodes, int kSlots>
struct Scratch {
  static constexpr int kRows = (kNodes + 15) / 16 * 16;
  // In shared memory rather than in registers, which are short.
  Inputs inputs;
  Sizes sizes;
  Outputs outputs;
  float row[2][kRows];
  // With `mean`, what the heads of a layer have added to the next row so far.
  float layer[kRows];
  // Of each row of a map: an exponent near that of its greatest score, and the inverse of the sum of the powers below it.
  float offset[2][kSlots][kRows], inverse[2][kSlots][kRows];
  int picked[kMaxTopK];
  int spoilt;
};

constexpr float kLog2E = 1.44269504088896341f;

// The nearest integer, of a number below 2 ** 22. Powers of two with integer exponents are exact, so sums with different
// offsets are joined without an error.
LRCLR_DEVICE float rounded(float value) { return (value + 12582912.0f) - 12582912.0f; }

// A thread's part of a tile: row `pair` and `pair + 8`, columns 2 * `column` and the next.
struct Place {
  int warp, pair, column;
};

LRCLR_DEVICE Place place_of(int thread) { return {thread / kWarp, thread % kWarp / 4, thread % 4}; }

// A thread's part of a row of kWidth elements, a multiple of eight: for each 32 of them a load of 16 bytes. The product of
// two rows is the same whatever order their elements are multiplied in, so each load takes eight neighbours, and the tensor
// cores see them in another order.
template <int kWidth>
struct RowPart {
  static constexpr int kLoads = (kWidth + 31) / 32;
  Words load[kLoads];
};

// `own` is the thread's first element of the row. Elements beyond the width are zero.
template <int kWidth, typename Element>
LRCLR_DEVICE RowPart<kWidth> part_at(const Element *own, int column) {
  constexpr Words zero = {{0, 0, 0, 0}};
  if constexpr (kWidth == 32)
    return {{load_words(own)}};
  else if constexpr (kWidth == 64)
    return {{load_words(own), load_words(own + 32)}};
  else
    return {{load_words(own), load_words(own + 32), 64 + 8 * column < kWidth ? load_words(own + 64) : zero}};
}

template <int kWidth, typename Element>
LRCLR_DEVICE RowPart<kWidth> load_part(const Element *rows, int row, const Sizes &sizes, int column) {
  const Element *own = rows + size_t(row < sizes.nodes ? row : sizes.nodes - 1) * sizes.row_stride + 8 * column;
  // What part_at would do. Written here, it compiles to the instructions that were measured.
  if constexpr (kWidth == 64) return {{load_words(own), load_words(own + 32)}};
  return part_at<kWidth>(own, column);
}

// Sixteen rows as the first operand of a product: the same for as many second operands as there are.
template <int kWidth>
struct Fragment {
  static constexpr int kSteps = 2 * RowPart<kWidth>::kLoads;
  uint32_t at[kSteps][4];
};

template <int kWidth, typename Element>
LRCLR_DEVICE Fragment<kWidth> load_fragment(const Element *rows, int first, const Sizes &sizes, const Place &place) {
  const RowPart<kWidth> upper = load_part<kWidth>(rows, first + place.pair, sizes, place.column),
                        lower = load_part<kWidth>(rows, first + place.pair + 8, sizes, place.column);
  Fragment<kWidth> found;
  // Always zero, which the compiler cannot know. Otherwise it repeats the moves that arrange these words, which are as many
  // instructions as all of the rest, in every turn of the loop that uses them.
  const uint32_t zero = uint32_t(sizes.mean) >> 1;
#pragma unroll
  for (int step = 0; step < Fragment<kWidth>::kSteps; ++step)
#pragma unroll
    for (int each = 0; each < 4; ++each) {
      const RowPart<kWidth> &part = each % 2 ? lower : upper;
      found.at[step][each] = part.load[step / 2].at[step % 2 * 2 + each / 2] ^ zero;
    }
  return found;
}

// scores[16, 8] = the products of sixteen rows and eight.
template <typename Element, int kWidth>
LRCLR_DEVICE void score_tile(const Fragment<kWidth> &sixteen, const RowPart<kWidth> &eight, float (&scores)[4]) {
#pragma unroll
  for (int step = 0; step < Fragment<kWidth>::kSteps; ++step) {
    const uint32_t *words = eight.load[step / 2].at + step % 2 * 2;
    if (step == 0)
      multiply(scores, sixteen.at[step], words[0], words[1], Element());
    else
      multiply_add(scores, sixteen.at[step], words[0], words[1], Element());
  }
}

// The maps of a chain in the order in which it takes them: the last layer first, and with `mean` the heads within a layer.
template <int kWidth, typename Element>
struct Maps {
  const Sizes &sizes;
  const Inputs &inputs;
  int image, chain, heads, count;

  LRCLR_DEVICE Maps(const Sizes &sizes, const Inputs &inputs, int image, int chain)
      : sizes(sizes), inputs(inputs), image(image), chain(chain), heads(sizes.mean ? sizes.heads : 1),
        count((sizes.layers - 1) * heads) {}
  LRCLR_DEVICE const Element *of(const void *const *tensors, int map) const {
    const int layer = sizes.layers - 2 - map / heads, head = sizes.mean ? map % heads : chain;
    return static_cast<const Element *>(tensors[layer]) + size_t(image) * sizes.nodes * sizes.row_stride + head * kWidth;
  }
  LRCLR_DEVICE bool begins_layer(int map) const { return map % heads == 0; }
  LRCLR_DEVICE bool ends_layer(int map) const { return map % heads == heads - 1; }
};

// A warp among those of all blocks of a cluster.
struct Team {
  int warp, warps, blocks;

  // Write a value to the same place in every block; the four threads of a row share the blocks out.
  LRCLR_DEVICE void publish(float *own, float value, int column) const {
    if (blocks == 1) {
      if (column == 0) *own = value;
    } else {
      for (int block = column; block < blocks; block += 4) store_to_block(own, block, value);
    }
  }
};

// The sum of the powers of a row that a thread has met, as total * 2 ** from.
struct Sum {
  float from, total;
};

// Add kTiles tiles of scores to the sums of a thread's two rows.
template <int kTiles>
LRCLR_DEVICE void add_scores(const float (&scores)[kTiles][4], float factor, Sum (&sums)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float most = from_bits(kMinusInfinity);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) most = fmaxf(most, fmaxf(scores[tile][2 * half], scores[tile][2 * half + 1]));
    const float wanted = fmaxf(sums[half].from, rounded(factor * most));
    // Until a thread has met a key, this is minus infinity, which must not be subtracted from itself.
    const float from = wanted == from_bits(kMinusInfinity) ? 0.0f : wanted;
    float total = sums[half].total * exp2_of(sums[half].from - from);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
      total += exp2_of(fmaf(scores[tile][2 * half], factor, -from)) + exp2_of(fmaf(scores[tile][2 * half + 1], factor, -from));
    sums[half] = {from, total};
  }
}

// Pass 1: offset and inverse of one tile of 16 rows, kChunk tiles of eight keys at a time.
template <int kChunk, int kWidth, typename Element>
LRCLR_DEVICE void row_sums(const Maps<kWidth, Element> &maps, int map, int row_tile, const Place &place, const Team &team, float factor,
                           float *offset, float *inverse) {
  const Sizes &sizes = maps.sizes;
  const Element *queries = maps.of(maps.inputs.queries, map), *keys = maps.of(maps.inputs.keys, map);
  const Fragment<kWidth> rows = load_fragment<kWidth>(queries, 16 * row_tile, sizes, place);
  Sum sums[2] = {{from_bits(kMinusInfinity), 0.0f}, {from_bits(kMinusInfinity), 0.0f}};
  const size_t step = size_t(8) * sizes.row_stride;
  const int whole = sizes.nodes / 8;
  const Element *key = keys + size_t(place.pair) * sizes.row_stride + 8 * place.column;
  int tile = 0;
#pragma unroll 1
  for (; tile + kChunk <= whole; tile += kChunk) {
    RowPart<kWidth> parts[kChunk];
    float scores[kChunk][4];
#pragma unroll
    for (int one = 0; one < kChunk; ++one, key += step) parts[one] = part_at<kWidth>(key, place.column);
#pragma unroll
    for (int one = 0; one < kChunk; ++one) score_tile<Element>(rows, parts[one], scores[one]);
    add_scores<kChunk>(scores, factor, sums);
  }
  // The rest, with keys beyond the last one masked.
#pragma unroll 1
  for (; 8 * tile < sizes.nodes; ++tile) {
    float scores[1][4];
    score_tile<Element>(rows, load_part<kWidth>(keys, 8 * tile + place.pair, sizes, place.column), scores[0]);
#pragma unroll
    for (int each = 0; each < 4; ++each)
      if (8 * tile + 2 * place.column + each % 2 >= sizes.nodes) scores[0][each] = from_bits(kMinusInfinity);
    add_scores<1>(scores, factor, sums);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float most = fmaxf(sums[half].from, shuffle_xor(sums[half].from, 1));
    most = fmaxf(most, shuffle_xor(most, 2));
    float total = sums[half].total * exp2_of(sums[half].from - most);
    total += shuffle_xor(total, 1);
    total += shuffle_xor(total, 2);
    const int row = 16 * row_tile + place.pair + 8 * half;
    team.publish(offset + row, most, place.column);
    team.publish(inverse + row, 1.0f / total, place.column);
  }
}

// Pass 2: sums = row[i] p[i, j] added up over the queries i that a thread meets, for kTiles tiles of 16 keys j. Keys are
// the first operand here, since they stay.
template <int kTiles, int kWidth, typename Element>
LRCLR_DEVICE void column_sums(const Maps<kWidth, Element> &maps, int map, const Place &place, int first_tile, float factor,
                              const float *row, const float *offset, const float *inverse, float (&sums)[kTiles][2]) {
  const Sizes &sizes = maps.sizes;
  const Element *queries = maps.of(maps.inputs.queries, map), *keys = maps.of(maps.inputs.keys, map);
  Fragment<kWidth> key[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    sums[tile][0] = sums[tile][1] = 0.0f;
    key[tile] = load_fragment<kWidth>(keys, 16 * (first_tile + tile), sizes, place);
  }
#pragma unroll 2
  for (int first = 0; first < sizes.nodes; first += 8) {
    const RowPart<kWidth> query = load_part<kWidth>(queries, first + place.pair, sizes, place.column);
    float from[2], weight[2];
#pragma unroll
    for (int each = 0; each < 2; ++each) {
      const int node = first + 2 * place.column + each;
      from[each] = offset[node];
      // Queries beyond the last one weigh nothing: row is zero there.
      weight[each] = row[node] * inverse[node];
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      // Keys beyond the last one are copies of it, and their sums are dropped. A branch would cost more.
      float scores[4];
      score_tile<Element>(key[tile], query, scores);
#pragma unroll
      for (int each = 0; each < 4; ++each)
        sums[tile][each / 2] += weight[each % 2] * exp2_of(fmaf(scores[each], factor, -from[each % 2]));
    }
  }
}

// Take a map's column sums into the next row.
template <int kTiles, typename Scratch, int kWidth, typename Element>
LRCLR_DEVICE void take_sums(const Maps<kWidth, Element> &maps, int map, const Place &place, const Team &team, int first_tile, int tiles,
                            float (&sums)[kTiles][2], int turn, Scratch &scratch) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if (tile >= tiles) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = sums[tile][half];
      sum += shuffle_xor(sum, 1);
      sum += shuffle_xor(sum, 2);
      const int node = 16 * (first_tile + tile) + place.pair + 8 * half;
      if (node >= maps.sizes.nodes) continue;
      if (maps.sizes.mean) {
        if (!maps.begins_layer(map)) sum += scratch.layer[node];
        if (!maps.ends_layer(map)) {
          if (place.column == 0) scratch.layer[node] = sum;
          continue;
        }
        sum = 0.5f * (scratch.row[turn][node] + sum / float(maps.heads));
      }
      team.publish(scratch.row[turn ^ 1] + node, sum, place.column);
    }
  }
}

// All of it, for one chain of one image. `blocks` blocks of a cluster share the work; at most eight. A warp takes its columns in
// kTurns turns of kTiles tiles.
template <int kTiles, int kTurns, int kNodes, int kSlots, int kWidth, typename Element>
LRCLR_DEVICE void select_regions(int image, int chain, int blocks, int threads, Scratch<kNodes, kSlots> &scratch) {
  const Sizes &sizes = scratch.sizes;
  const int thread = thread_index(), block = blocks == 1 ? 0 : cluster_rank();
  const Place place = place_of(thread);
  const Team team = {block * (threads / kWarp) + place.warp, blocks * (threads / kWarp), blocks};
  const Maps<kWidth, Element> maps(sizes, scratch.inputs, image, chain);
  const float factor = sizes.scale * kLog2E;
  const int row_tiles = (sizes.nodes + 15) / 16;
  // Tiles of keys are shared out evenly.
  const int first_tile = row_tiles * team.warp / team.warps, tiles = row_tiles * (team.warp + 1) / team.warps - first_tile;

  // The start row's attention in the last layer. With `mean` it comes averaged over the heads; a CLS token, which is node
  // 0, also keeps itself.
  const float *start = scratch.inputs.start + (size_t(image) * (sizes.mean ? 1 : sizes.heads) + chain) * sizes.nodes;
  for (int node = thread; node < Scratch<kNodes, kSlots>::kRows; node += threads) {
    float value = node < sizes.nodes ? start[node] : 0.0f;
    if (sizes.mean && sizes.prefix) value = 0.5f * (value + (node == 0 ? 1.0f : 0.0f));
    scratch.row[0][node] = value;
    scratch.row[1][node] = 0.0f;
  }
  const auto sync = [&] {
    if (blocks == 1)
      sync_block();
    else
      sync_cluster();
  };
  // Pass 1 of kSlots maps.
  const auto prepare = [&](int first, int set) {
    const int tasks = row_tiles * (maps.count - first < kSlots ? maps.count - first : kSlots);
#pragma unroll 1
    for (int task = team.warp; task < tasks; task += team.warps) {
      const int slot = task / row_tiles;
      row_sums<kNodes == 64 && kSlots == 1 ? 2 : 4>(maps, first + slot, task % row_tiles, place, team, factor, scratch.offset[set][slot],
                                                    scratch.inverse[set][slot]);
    }
  };
  // No block may store to another one before that one runs.
  sync();
  prepare(0, 0);
  sync();
  int turn = 0, slot = 0, set = 0;
#pragma unroll 1
  for (int map = 0; map < maps.count; ++map) {
#pragma unroll 1
    for (int taken = 0; taken < kTurns * kTiles; taken += kTiles)
      if (tiles > taken) {
        float sums[kTiles][2];
        column_sums<kTiles>(maps, map, place, first_tile + taken, factor, scratch.row[turn], scratch.offset[set][slot],
                            scratch.inverse[set][slot], sums);
        take_sums<kTiles>(maps, map, place, team, first_tile + taken, tiles - taken, sums, turn, scratch);
      }
    if (maps.ends_layer(map)) turn ^= 1;
    if (++slot == kSlots) {
      slot = 0;
      set ^= 1;
      if (map + 1 < maps.count) prepare(map + 1, set);
    }
    sync();
  }
  if (block != 0) return;
  const Selection call = {sizes.nodes,     sizes.prefix,          sizes.top_k,           sizes.mean ? 1 : sizes.heads,
                          sizes.row_bytes, scratch.inputs.tokens, scratch.outputs.region_tokens,
                          scratch.outputs.region_index, scratch.outputs.region_importance};
  pick(call, threads, scratch.row[turn], scratch.picked, &scratch.spoilt);
  write_selection(call, image, chain, threads, scratch.row[turn], scratch.picked, scratch.spoilt);
}

}  // namespace lrclr

#if defined(__CUDACC__)

#if __CUDA_ARCH__ >= 900
#define LRCLR_CLUSTER(BLOCKS) __cluster_dims__(BLOCKS, 1, 1)
#else
#define LRCLR_CLUSTER(BLOCKS)
#endif

// Called and not inlined: a copy of the work for each number of layers would be megabytes of PTX.
#define LRCLR_SELECT(FORM, WIDTH, NODES, TILES, TURNS, SLOTS, BLOCKS)                                                       \
  __device__ __noinline__ void select_##FORM(lrclr::Scratch<NODES, SLOTS> &scratch) {                                     \
    lrclr::select_regions<TILES, TURNS, NODES, SLOTS, WIDTH, lrclr::Half>(blockIdx.y, blockIdx.x / BLOCKS, BLOCKS,        \
                                                                         blockDim.x, scratch);                           \
  }
LRCLR_SELECT(64, 64, 64, 1, 1, 1, 1)
LRCLR_SELECT(64s12, 64, 64, 1, 1, 12, 1)
LRCLR_SELECT(608c1, 64, 608, 3, 1, 1, 1)
LRCLR_SELECT(608c8, 64, 608, 1, 1, 1, 8)
LRCLR_SELECT(1088c1, 64, 1088, 3, 2, 1, 1)
LRCLR_SELECT(1088c8, 64, 1088, 1, 1, 1, 8)
// Heads of 32, of small networks, and of 72, of SigLIP's largest.
LRCLR_SELECT(64w32, 32, 64, 1, 1, 1, 1)
LRCLR_SELECT(64s12w32, 32, 64, 1, 1, 12, 1)
LRCLR_SELECT(608c1w32, 32, 608, 3, 1, 1, 1)
LRCLR_SELECT(608c8w32, 32, 608, 1, 1, 1, 8)
LRCLR_SELECT(608c1w72, 72, 608, 2, 2, 1, 1)
LRCLR_SELECT(608c8w72, 72, 608, 1, 1, 1, 8)
LRCLR_SELECT(1088c1w72, 72, 1088, 2, 3, 1, 1)
LRCLR_SELECT(1088c8w72, 72, 1088, 1, 1, 1, 8)

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
#define LRCLR_PAIRS_24 LRCLR_PAIRS_23, const void *query_23, const void *key_23
#define LRCLR_KEEP_24 LRCLR_KEEP_23 scratch.inputs.queries[23] = query_23; scratch.inputs.keys[23] = key_23;
#define LRCLR_PAIRS_25 LRCLR_PAIRS_24, const void *query_24, const void *key_24
#define LRCLR_KEEP_25 LRCLR_KEEP_24 scratch.inputs.queries[24] = query_24; scratch.inputs.keys[24] = key_24;
#define LRCLR_PAIRS_26 LRCLR_PAIRS_25, const void *query_25, const void *key_25
#define LRCLR_KEEP_26 LRCLR_KEEP_25 scratch.inputs.queries[25] = query_25; scratch.inputs.keys[25] = key_25;
#define LRCLR_PAIRS_27 LRCLR_PAIRS_26, const void *query_26, const void *key_26
#define LRCLR_KEEP_27 LRCLR_KEEP_26 scratch.inputs.queries[26] = query_26; scratch.inputs.keys[26] = key_26;

#define LRCLR_ENTRY(FORM, BLOCKS, THREADS, MIN_BLOCKS, NODES, SLOTS, PAIRS)                                                 \
  extern "C" __global__ void LRCLR_CLUSTER(BLOCKS) __launch_bounds__(THREADS, MIN_BLOCKS)                                \
      region_select_##FORM##_##PAIRS(const void *tokens, const float *start, LRCLR_PAIRS_##PAIRS, int heads, int mean,    \
                                     int nodes, int prefix, int top_k, int row_bytes, int row_stride, int scale_bits,    \
                                     void *region_tokens, long long *region_index, float *region_importance) {           \
    __shared__ lrclr::Scratch<NODES, SLOTS> scratch;                                                                     \
    if (threadIdx.x == 0) {                                                                                              \
      scratch.inputs.tokens = tokens;                                                                                    \
      scratch.inputs.start = start;                                                                                      \
      LRCLR_KEEP_##PAIRS                                                                                                 \
      scratch.sizes = {PAIRS + 1, heads,     mean,       nodes,                      prefix,                             \
                       top_k,     row_bytes, row_stride, lrclr::from_bits(scale_bits)};                                  \
      scratch.outputs = {region_tokens, region_index, region_importance};                                                \
    }                                                                                                                    \
    __syncthreads();                                                                                                     \
    select_##FORM(scratch);                                                                                              \
  }

#ifndef LRCLR_SMALL_BLOCKS
#define LRCLR_SMALL_BLOCKS 6
#endif
#define LRCLR_ENTRIES(PAIRS)                                   \
  LRCLR_ENTRY(64, 1, 128, LRCLR_SMALL_BLOCKS, 64, 1, PAIRS)    \
  LRCLR_ENTRY(64s12, 1, 512, 1, 64, 12, PAIRS)                 \
  LRCLR_ENTRY(608c1, 1, 416, 1, 608, 1, PAIRS)                 \
  LRCLR_ENTRY(608c8, 8, 160, 1, 608, 1, PAIRS)                 \
  LRCLR_ENTRY(1088c1, 1, 448, 1, 1088, 1, PAIRS)               \
  LRCLR_ENTRY(1088c8, 8, 288, 1, 1088, 1, PAIRS)

LRCLR_ENTRIES(1) LRCLR_ENTRIES(2) LRCLR_ENTRIES(3) LRCLR_ENTRIES(4) LRCLR_ENTRIES(5) LRCLR_ENTRIES(6) LRCLR_ENTRIES(7)
LRCLR_ENTRIES(8) LRCLR_ENTRIES(9) LRCLR_ENTRIES(10) LRCLR_ENTRIES(11) LRCLR_ENTRIES(15) LRCLR_ENTRIES(17)
LRCLR_ENTRIES(19) LRCLR_ENTRIES(23)
// Towers of 12 and 24 layers without a CLS token: the start row comes from a pooling head after the last one.
LRCLR_ENTRIES(12) LRCLR_ENTRIES(24)

#define LRCLR_ENTRIES_32(PAIRS)                                \
  LRCLR_ENTRY(64w32, 1, 128, LRCLR_SMALL_BLOCKS, 64, 1, PAIRS) \
  LRCLR_ENTRY(64s12w32, 1, 512, 1, 64, 12, PAIRS)              \
  LRCLR_ENTRY(608c1w32, 1, 416, 1, 608, 1, PAIRS)              \
  LRCLR_ENTRY(608c8w32, 8, 160, 1, 608, 1, PAIRS)
LRCLR_ENTRIES_32(3) LRCLR_ENTRIES_32(5) LRCLR_ENTRIES_32(7) LRCLR_ENTRIES_32(11)

// 27 layers without a CLS token.
LRCLR_ENTRY(608c1w72, 1, 416, 1, 608, 1, 27)
LRCLR_ENTRY(608c8w72, 8, 160, 1, 608, 1, 27)
LRCLR_ENTRY(1088c1w72, 1, 448, 1, 1088, 1, 27)
LRCLR_ENTRY(1088c8w72, 8, 288, 1, 1088, 1, 27)

#else

namespace {

template <int kTiles, int kTurns, int kNodes, int kSlots, int kWidth>
void on_host(int images, int blocks, int threads, int order, unsigned seed, const lrclr::Inputs &inputs,
             const lrclr::Sizes &sizes, const lrclr::Outputs &outputs) {
  using namespace lrclr;
  for (int image = 0; image < images; ++image)
    for (int chain = 0; chain < (sizes.mean ? 1 : sizes.heads); ++chain)
      host::run_cluster(blocks, threads, sizeof(Scratch<kNodes, kSlots>), host::Order(order), seed, [&](int block) {
        Scratch<kNodes, kSlots> &scratch = *static_cast<Scratch<kNodes, kSlots> *>(host::machine.all_blocks[block].shared);
        if (thread_index() == 0) {
          scratch.inputs = inputs;
          scratch.sizes = sizes;
          scratch.outputs = outputs;
        }
        sync_block();
        select_regions<kTiles, kTurns, kNodes, kSlots, kWidth, Half>(image, chain, blocks, threads, scratch);
      });
}

}  // namespace

// `form`: the most tokens that it takes, or 12 for the form with twelve slots. `width`: of a head. `order`: 0 forward, 1 reversed,
// 2 shuffled by `seed`. Returns whether there is such a form.
extern "C" int lrclr_region_select(int form, int width, int images, int blocks, int threads, int order, unsigned seed,
                                   const lrclr::Inputs *inputs, const lrclr::Sizes *sizes, const lrclr::Outputs *outputs) {
  const auto run = [&](auto call) {
    call(images, blocks, threads, order, seed, *inputs, *sizes, *outputs);
    return 1;
  };
  const bool one = blocks == 1;
  switch (10000 * width + form) {
    case 640012: return run(on_host<1, 1, 64, 12, 64>);
    case 640064: return run(on_host<1, 1, 64, 1, 64>);
    case 640608: return run(one ? on_host<3, 1, 608, 1, 64> : on_host<1, 1, 608, 1, 64>);
    case 641088: return run(one ? on_host<3, 2, 1088, 1, 64> : on_host<1, 1, 1088, 1, 64>);
    case 320012: return run(on_host<1, 1, 64, 12, 32>);
    case 320064: return run(on_host<1, 1, 64, 1, 32>);
    case 320608: return run(one ? on_host<3, 1, 608, 1, 32> : on_host<1, 1, 608, 1, 32>);
    case 720608: return run(one ? on_host<2, 2, 608, 1, 72> : on_host<1, 1, 608, 1, 72>);
    case 721088: return run(one ? on_host<2, 3, 1088, 1, 72> : on_host<1, 1, 1088, 1, 72>);
    default: return 0;
  }
}

#endif
