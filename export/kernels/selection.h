// Top-k of a chain's importance, and the gather of the picked tokens.

#pragma once

#include "device.h"

namespace lrclr {

constexpr int kMaxTopK = 64;

// What selection needs of a call. `prefix` counts the tokens before the patches: 1 where there is a CLS token, else 0.
struct Selection {
  int nodes, prefix, top_k, chains, row_bytes;
  const void *tokens;
  void *region_tokens;
  long long *region_index;
  float *region_importance;
};

// picked = the patches of greatest importance, the lower number first among equals. A patch's rank is the number of
// patches before it. Patches whose importance is not finite come last, and `spoilt` is set.
LRCLR_DEVICE void pick(const Selection &call, int threads, float *row, int *picked, int *spoilt) {
  const int thread = thread_index();
  if (thread == 0) *spoilt = 0;
  sync_block();
  for (int node = call.prefix + thread; node < call.nodes; node += threads) {
    if (finite(row[node])) continue;
    row[node] = from_bits(kMinusInfinity);
    *spoilt = 1;
  }
  sync_block();
  for (int node = call.prefix + thread; node < call.nodes; node += threads) {
    const float mine = row[node];
    int before = 0;
    for (int other = call.prefix; other < call.nodes; ++other) {
      const float theirs = row[other];
      before += theirs > mine || (theirs == mine && other < node);
    }
    if (before < call.top_k) picked[before] = node - call.prefix;
  }
  sync_block();
}

template <typename Unit>
LRCLR_DEVICE void copy_rows(const Selection &call, int chain, int threads, const int *picked, const char *from, char *to) {
  const int units = call.row_bytes / int(sizeof(Unit));
  const int own = call.top_k * units, before = chain == 0 ? call.prefix * units : 0;
  for (int unit = thread_index(); unit < own + before; unit += threads) {
    const bool is_picked = unit < own;
    const int rank = is_picked ? unit / units : 0, place = is_picked ? unit % units : unit - own;
    const size_t source = is_picked ? size_t(picked[rank]) + call.prefix : 0;
    const size_t target = is_picked ? size_t(call.prefix) + size_t(chain) * call.top_k + rank : 0;
    reinterpret_cast<Unit *>(to + target * call.row_bytes)[place] =
        reinterpret_cast<const Unit *>(from + source * call.row_bytes)[place];
  }
}

// Write what one chain of one image selects. Where the rollout is not finite, the chain's importance is NaN throughout;
// its tokens and indices are those of patches whose importance is finite, as far as there are any.
LRCLR_DEVICE void write_selection(const Selection &call, int image, int chain, int threads, const float *row,
                                  const int *picked, int spoilt) {
  const int regions = call.chains * call.top_k;
  for (int rank = thread_index(); rank < call.top_k; rank += threads) {
    const size_t place = size_t(image) * regions + size_t(chain) * call.top_k + rank;
    call.region_index[place] = picked[rank];
    call.region_importance[place] = spoilt ? from_bits(kNan) : row[picked[rank] + call.prefix];
  }
  const char *from = static_cast<const char *>(call.tokens) + size_t(image) * call.nodes * call.row_bytes;
  char *to = static_cast<char *>(call.region_tokens) + size_t(image) * (regions + call.prefix) * call.row_bytes;
  const size_t odd = reinterpret_cast<size_t>(from) | reinterpret_cast<size_t>(to) | size_t(call.row_bytes);
  if (odd % sizeof(Words) == 0)
    copy_rows<Words>(call, chain, threads, picked, from, to);
  else
    copy_rows<uint16_t>(call, chain, threads, picked, from, to);
}

}  // namespace lrclr
