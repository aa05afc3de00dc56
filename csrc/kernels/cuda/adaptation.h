// Launchers of the adaptation kernels, for the glue and for the emulator's bindings. Include what
// defines cudaError_t and cudaStream_t first. All pointers are device pointers. A neighbour with an
// index outside the memory, a label outside the classes, or a negative or NaN distance is left out.
#pragma once
#include <cstdint>

#include "../common/neighbourhood.h"
#include "../common/optimizer_step.h"

namespace clfast::cuda {

// The neighbours of B queries, looked up: [B, K] each.
template <class T>
struct Resolved {
  int64_t* rows;    // row of the memory; -1 for a neighbour that is left out
  int64_t* labels;  // its class; -1 for a neighbour that is left out
  T* closeness;     // c_k; 0 for a neighbour that is left out
};

template <class T>
cudaError_t hebbian_update(const Neighbourhood<T>& neighbourhood, int64_t batch, const bool* select,
                           const Resolved<T>& resolved, T* delta_weight, T* delta_bias,
                           cudaStream_t stream);

template <class T>
struct MbpaProblem {
  Neighbourhood<T> neighbourhood;
  int64_t batch;
  const T* weight;  // [C, d]
  const T* bias;    // [C], or null
  int64_t steps;
  T lr;
  Optimizer optimizer;
};

// State of the queries in flight: `chunk` of them (at most 65535).
template <class T>
struct MbpaScratch {
  int64_t chunk;
  T *weight, *weight_state;  // [chunk, C, d]
  T *bias, *bias_state;      // [chunk, C]
  T* logits;                 // [chunk, K, C]
};

template <class T>
cudaError_t mbpa_update(const MbpaProblem<T>& problem, const Resolved<T>& resolved,
                        const MbpaScratch<T>& scratch, T* delta_weight, T* delta_bias,
                        cudaStream_t stream);

template <class T>
struct HebbLogitsProblem {
  MbpaProblem<T> mbpa;
  const T* queries;        // [B, d]
  const T* base_logits;    // [B, C]
  const T* base_bias;      // [C], what base_logits still lack, or null
  const T* interpolation;  // [C]
  T eta;
  const bool* select;     // [C], or null
  const T* key_sq_norms;  // [M], or null
};

// dots: [B, K] of scratch. scratch is not touched when there are no steps.
template <class T>
cudaError_t hebb_logits(const HebbLogitsProblem<T>& problem, const Resolved<T>& resolved,
                        const MbpaScratch<T>& scratch, T* dots, T* out, cudaStream_t stream);

template <class T>
struct MixtureProblem {
  Neighbourhood<T> neighbourhood;
  int64_t batch;
  const T* logits;   // [B, C]
  const T* queries;  // [B, d]
  T theta, log_gamma, log_rest;
  bool joint;
  const T* key_sq_norms;  // [M], or null
};

// scores: [B, K] of scratch.
template <class T>
cudaError_t mixture_log_probs(const MixtureProblem<T>& problem, const Resolved<T>& resolved,
                              T* scores, T* out, cudaStream_t stream);

template <class T>
cudaError_t interpolation_weights(const int64_t* counts, int64_t num_classes, double beta, T* out,
                                  cudaStream_t stream);

}  // namespace clfast::cuda
