// Logits of the adapted output layer (Hebb paper, Eq. 7). Of the layers themselves, only those of
// the queries in flight exist.
#pragma once
#include "mbpa.cuh"

namespace clfast::cuda {

template <class T>
__global__ void base_kernel(const T* __restrict__ base_logits, const T* __restrict__ bias,
                            int64_t count, int64_t num_classes, T* __restrict__ out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= count) return;
  out[at] = base_logits[at] + (bias == nullptr ? T(0) : bias[at % num_classes]);
}

// out[q, i] += (1 - E_i) (<w_qi - w_i, x_q> + b_qi - b_i), one warp an entry.
template <class T>
__global__ void add_mbpa_kernel(const T* __restrict__ adapted, const T* __restrict__ given,
                                const T* __restrict__ adapted_bias,
                                const T* __restrict__ given_bias, const T* __restrict__ queries,
                                const T* __restrict__ interpolation, int64_t count,
                                int64_t num_classes, int64_t dim, T* __restrict__ out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (at >= count * num_classes) return;
  const int64_t query = at / num_classes, own = at % num_classes;
  const T *w = adapted + at * dim, *start = given + own * dim, *x = queries + query * dim;
  double sum = 0;
  for (int64_t j = threadIdx.x % kWarpSize; j < dim; j += kWarpSize) {
    sum += static_cast<double>(w[j] - start[j]) * static_cast<double>(x[j]);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarpSize != 0) return;
  const T bias = given_bias == nullptr ? T(0) : adapted_bias[at] - given_bias[own];
  out[at] += (T(1) - interpolation[own]) * (static_cast<T>(sum) + bias);
}

// out[q, i] += E_i eta / |N_i| sum_{k in N_i} c_k (<h_k, x> + 1); the 1 is the bias's share. One
// block a query.
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_hebb_kernel(int64_t neighbours, int64_t num_classes, const bool* __restrict__ select,
                    const T* __restrict__ interpolation, T eta, T bias_share, Resolved<T> resolved,
                    const T* __restrict__ dots, T* __restrict__ out) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * neighbours;
  const int64_t* labels = resolved.labels + first;
  const T* closeness = resolved.closeness + first;
  for (int64_t k = threadIdx.x; k < neighbours; k += kThreads) {
    const int64_t label = labels[k];
    if (label < 0 || (select != nullptr && !select[label])) continue;
    if (!speaks_for_class(labels, k)) continue;
    T sum = T(0), count = T(0);
    for (int64_t other = k; other < neighbours; ++other) {
      if (labels[other] != label) continue;
      sum += weighed(closeness[other], dots[first + other] + bias_share);
      count += T(1);
    }
    out[static_cast<int64_t>(blockIdx.x) * num_classes + label] +=
        interpolation[label] * eta * sum / count;
  }
}

template <class T>
cudaError_t hebb_logits(const HebbLogitsProblem<T>& p, const Resolved<T>& resolved,
                        const MbpaScratch<T>& scratch, T* dots, T* out, cudaStream_t stream) {
  const MbpaProblem<T>& mbpa = p.mbpa;
  const Neighbourhood<T>& n = mbpa.neighbourhood;
  const int64_t batch = mbpa.batch, classes = n.num_classes;
  if (batch == 0) return cudaSuccess;
  cudaError_t status = resolve(n, batch, resolved, stream);
  if (status != cudaSuccess) return status;
  CLFAST_LAUNCH((base_kernel<T>), grid_of(divide_up(batch * classes, kThreads)), dim3(kThreads), 0,
                stream, p.base_logits, p.base_bias, batch * classes, classes, out);
  status = cudaGetLastError();
  if (status != cudaSuccess) return status;
  if (mbpa.steps > 0) {
    for (int64_t begin = 0; begin < batch; begin += scratch.chunk) {
      const int64_t count = batch - begin < scratch.chunk ? batch - begin : scratch.chunk;
      status = adapt(mbpa, resolved, begin, count, scratch, stream);
      if (status != cudaSuccess) return status;
      CLFAST_LAUNCH((add_mbpa_kernel<T>), grid_of(divide_up(count * classes, kWarps)),
                    dim3(kThreads), 0, stream, scratch.weight, mbpa.weight, scratch.bias, mbpa.bias,
                    p.queries + begin * n.dim, p.interpolation, count, classes, n.dim,
                    out + begin * classes);
      status = cudaGetLastError();
      if (status != cudaSuccess) return status;
    }
  }
  status = neighbour_dots(n, batch, p.queries, p.key_sq_norms, resolved, dots, stream);
  if (status != cudaSuccess) return status;
  const T bias_share = mbpa.bias == nullptr ? T(0) : T(1);
  CLFAST_LAUNCH((add_hebb_kernel<T>), grid_of(batch), dim3(kThreads), 0, stream, n.neighbours,
                classes, p.select, p.interpolation, p.eta, bias_share, resolved, dots, out);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
