// The threads of a kernel on a host: coroutines that stop where threads wait for each other.
//
// The order in which waiting threads go on is chosen by the caller: forward, reversed or shuffled. A result that depends on
// it is a race.

#pragma once

#include <math.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

namespace lrclr {

namespace host {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 64 * 1024;

enum class Order { forward, reversed, shuffled };

struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
};

struct Posted {
  float value;
  uint32_t words[6];
};

struct Warp {
  Barrier barrier;
  Posted posted[2][kLanes];
};

struct HostBlock {
  Barrier barrier;
  std::vector<Warp> warps;
  void *shared = nullptr;
};

struct Coroutine {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  int block, thread;
  unsigned exchanges = 0;
  bool done = false;
};

struct Machine {
  int threads = 0, blocks = 0;
  std::vector<HostBlock> all_blocks;
  std::vector<Coroutine> coroutines;
  Barrier cluster;
  ucontext_t scheduler;
  Coroutine *running = nullptr;
  std::function<void(int block)> work;
};

inline Machine machine;

inline void pause() { swapcontext(&machine.running->context, &machine.scheduler); }

inline void wait_at(Barrier &barrier, int count) {
  const unsigned generation = barrier.generation;
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  while (barrier.generation == generation) pause();
}

inline void start() {
  Coroutine *own = machine.running;
  machine.work(own->block);
  own->done = true;
  pause();
}

// Run `work(block)` as every thread of every block of a cluster; `shared_bytes` of shared memory each, filled with 0xff.
inline void run_cluster(int blocks, int threads, size_t shared_bytes, Order order, unsigned seed,
                        const std::function<void(int block)> &work) {
  std::vector<std::vector<char>> shared(blocks, std::vector<char>(shared_bytes + 16, char(0xff)));
  machine.threads = threads;
  machine.blocks = blocks;
  machine.work = work;
  machine.cluster = Barrier();
  machine.all_blocks.assign(blocks, HostBlock());
  for (int block = 0; block < blocks; ++block) {
    machine.all_blocks[block].warps.resize((threads + kLanes - 1) / kLanes);
    void *place = shared[block].data();
    size_t space = shared_bytes + 16;
    machine.all_blocks[block].shared = std::align(16, shared_bytes, place, space);
  }
  if (machine.coroutines.size() < size_t(blocks) * threads) machine.coroutines.resize(size_t(blocks) * threads);
  std::vector<int> alive;
  for (int number = 0; number < blocks * threads; ++number) {
    Coroutine &one = machine.coroutines[number];
    if (!one.stack) one.stack.reset(new char[kStackBytes]);
    one.block = number / threads;
    one.thread = number % threads;
    one.exchanges = 0;
    one.done = false;
    getcontext(&one.context);
    one.context.uc_stack.ss_sp = one.stack.get();
    one.context.uc_stack.ss_size = kStackBytes;
    one.context.uc_link = nullptr;
    makecontext(&one.context, start, 0);
    alive.push_back(number);
  }
  if (order == Order::reversed) std::reverse(alive.begin(), alive.end());
  std::mt19937 random(seed);
  while (!alive.empty()) {
    if (order == Order::shuffled) std::shuffle(alive.begin(), alive.end(), random);
    for (int number : alive) {
      machine.running = &machine.coroutines[number];
      swapcontext(&machine.scheduler, &machine.running->context);
    }
    alive.erase(std::remove_if(alive.begin(), alive.end(), [](int number) { return machine.coroutines[number].done; }),
                alive.end());
  }
}

}  // namespace host

inline int thread_index() { return host::machine.running->thread; }
inline int cluster_rank() { return host::machine.running->block; }
inline void sync_block() {
  host::wait_at(host::machine.all_blocks[host::machine.running->block].barrier, host::machine.threads);
}
inline void sync_cluster() { host::wait_at(host::machine.cluster, host::machine.blocks * host::machine.threads); }

// Post this thread's values, wait for the warp, and give those of all. Two sets take turns: a thread that has read
// one cannot overwrite it before every other thread of the warp has read it too.
inline const host::Posted *exchange(const host::Posted &own) {
  host::Coroutine &me = *host::machine.running;
  host::Warp &warp = host::machine.all_blocks[me.block].warps[me.thread / host::kLanes];
  host::Posted *posted = warp.posted[me.exchanges++ % 2];
  posted[me.thread % host::kLanes] = own;
  host::wait_at(warp.barrier, host::kLanes);
  return posted;
}

inline float shuffle_xor(float value, int mask) {
  host::Posted own = {};
  own.value = value;
  return exchange(own)[(thread_index() % host::kLanes) ^ mask].value;
}

// Like ex2.approx.ftz: denormal numbers count as zero.
inline float exp2_of(float value) {
  const float found = exp2f(value);
  return found < 1.17549435e-38f ? 0.0f : found;
}

inline void store_to_block(float *own, int rank, float value) {
  host::HostBlock &mine = host::machine.all_blocks[host::machine.running->block], &other = host::machine.all_blocks[rank];
  const ptrdiff_t offset = reinterpret_cast<char *>(own) - static_cast<char *>(mine.shared);
  *reinterpret_cast<float *>(static_cast<char *>(other.shared) + offset) = value;
}

template <typename Element>
float element_of(const uint32_t *words, int place) {
  return as_float(Element{uint16_t(words[place / 2] >> (16 * (place % 2)))});
}

// PTX's mma.m16n8k16: which thread holds which element is the table of the PTX manual.
template <typename Element>
void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Element) {
  host::Posted own = {0.0f, {a[0], a[1], a[2], a[3], b0, b1}};
  const host::Posted *posted = exchange(own);
  const int lane = thread_index() % host::kLanes, group = lane / 4, inside = lane % 4;
  for (int place = 0; place < 4; ++place) {
    const int upper = place / 2, column = 2 * inside + place % 2;
    float sum = sums[place];
    for (int k = 0; k < 16; ++k) {
      const int half = k / 8, source = (k % 8) / 2;
      const uint32_t *of_a = posted[group * 4 + source].words, *of_b = posted[column * 4 + source].words;
      const uint32_t a_word[1] = {of_a[upper + 2 * half]}, b_word[1] = {of_b[4 + half]};
      sum += element_of<Element>(a_word, k % 2) * element_of<Element>(b_word, k % 2);
    }
    sums[place] = sum;
  }
}

template <typename Element>
void multiply(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Element element) {
  for (float &sum : sums) sum = 0.0f;
  multiply_add(sums, a, b0, b1, element);
}

}  // namespace lrclr
