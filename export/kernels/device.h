// What the region kernels take from the device, and the same for a host.
//
// On a device, each function below is one or a few instructions. On a host, host_threads.h runs the threads of a block (and
// the blocks of a cluster) as coroutines, which stop where threads wait for each other; so the kernels' own code is
// tested where there is no GPU.

#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#define LRCLR_DEVICE __device__ __forceinline__
#else
#include "host_threads.h"
#define LRCLR_DEVICE inline
#endif

namespace lrclr {

constexpr int kWarp = 32;

struct Half {
  uint16_t bits;
};
struct alignas(16) Words {
  uint32_t at[4];
};

LRCLR_DEVICE float from_bits(uint32_t bits) {
#if defined(__CUDACC__)
  return __uint_as_float(bits);
#else
  union { uint32_t bits; float value; } both = {bits};
  return both.value;
#endif
}

LRCLR_DEVICE uint32_t to_bits(float value) {
#if defined(__CUDACC__)
  return __float_as_uint(value);
#else
  union { float value; uint32_t bits; } both = {value};
  return both.bits;
#endif
}

LRCLR_DEVICE float as_float(Half value) {
#if defined(__CUDACC__)
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, exponent = (value.bits >> 10) & 31, mantissa = value.bits & 1023;
  if (exponent == 31) return from_bits(sign | 0x7f800000 | mantissa << 13);
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * float(mantissa) * (1.0f / 16777216.0f);
  return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
#endif
}

constexpr uint32_t kInfinity = 0x7f800000u, kMinusInfinity = 0xff800000u, kNan = 0x7fc00000u;

// Not isfinite(): a compiler flag can make that constant.
LRCLR_DEVICE bool finite(float value) { return (to_bits(value) & kInfinity) != kInfinity; }

#if defined(__CUDACC__)

LRCLR_DEVICE int thread_index() { return int(threadIdx.x); }
LRCLR_DEVICE void sync_block() { __syncthreads(); }
LRCLR_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
LRCLR_DEVICE float exp2_of(float value) {
  float found;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(value));
  return found;
}
LRCLR_DEVICE Words load_words(const void *from) {
  Words found;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(found.at[0]), "=r"(found.at[1]), "=r"(found.at[2]), "=r"(found.at[3])
               : "l"(from));
  return found;
}

// A product of a warp, spread over its threads as PTX's mma.m16n8k16 wants it: sums[16, 8] = a[16, 16] b[16, 8], or +=.
LRCLR_DEVICE void multiply(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
      : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}
LRCLR_DEVICE void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Blocks of a cluster: this block's number, a barrier over all of them, and a store to the same place in another block's
// shared memory. In PTX for devices before Hopper a cluster is one block.
LRCLR_DEVICE int cluster_rank() {
#if __CUDA_ARCH__ >= 900
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return int(rank);
#else
  return 0;
#endif
}
LRCLR_DEVICE void sync_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#endif
}
LRCLR_DEVICE void store_to_block(float *own, int rank, float value) {
#if __CUDA_ARCH__ >= 900
  uint32_t place = uint32_t(__cvta_generic_to_shared(own)), there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(place), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(value) : "memory");
#else
  (void)rank;
  *own = value;
#endif
}

#else

inline Words load_words(const void *from) { return *static_cast<const Words *>(from); }

#endif

}  // namespace lrclr
