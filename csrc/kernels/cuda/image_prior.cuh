// Total variation and norm of images, their gradient, and a step with it: sums of parts of images
// first, then one thread an element. A step reads its neighbours as they were from a copy that the
// sums leave behind.
#pragma once
#include "recall_rows.cuh"

namespace clfast::cuda {

// Where an element stands in its image, and its differences with its neighbours; 0 at the border.
template <class T>
struct Differences {
  T up, down, left, right;
};

template <class T>
__device__ __forceinline__ Differences<T> differences_at(const ImagePrior<T>& p,
                                                         const T* __restrict__ image, int64_t at) {
  const int64_t column = at % p.row, line = at / p.row % p.height;
  const T x = image[at], none = T(0);
  return {line > 0 ? x - image[at - p.row] : none,
          line + 1 < p.height ? x - image[at + p.row] : none,
          column >= p.lag ? x - image[at - p.lag] : none,
          column + p.lag < p.row ? x - image[at + p.lag] : none};
}

template <class T>
__device__ __forceinline__ T size_of_difference(const ImagePrior<T>& p, T difference) {
  return p.absolute ? (difference < T(0) ? -difference : difference) : difference * difference;
}

template <class T>
__device__ __forceinline__ T slope_of_difference(const ImagePrior<T>& p, T difference) {
  return p.absolute ? static_cast<T>((difference > T(0)) - (difference < T(0))) : T(2) * difference;
}

// d value / d element, as the CPU kernel has it.
template <class T>
__device__ __forceinline__ T slope_at(const ImagePrior<T>& p, const T* __restrict__ image,
                                      int64_t at, T norm) {
  const Differences<T> d = differences_at(p, image, at);
  const T toward_zero = norm > T(0) ? p.norm / norm : T(0);
  return p.down * (slope_of_difference(p, d.up) + slope_of_difference(p, d.down)) +
         p.right * (slope_of_difference(p, d.left) + slope_of_difference(p, d.right)) +
         toward_zero * image[at];
}

// Grid: images x parts. before: a copy of the images, or null.
template <class T>
__global__ void __launch_bounds__(kThreads)
    image_sums_kernel(ImagePrior<T> p, const T* __restrict__ images, int64_t size,
                      double* __restrict__ sums, T* __restrict__ before) {
  CLFAST_SHARED(double[kWarps], shared);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * size, parts = gridDim.y;
  const T* image = images + first;
  double squares = 0, variation = 0;
  for (int64_t at = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x; at < size;
       at += parts * kThreads) {
    const T x = image[at];
    const Differences<T> d = differences_at(p, image, at);
    squares += static_cast<double>(x) * static_cast<double>(x);
    variation += static_cast<double>(p.down * size_of_difference(p, d.down) +
                                     p.right * size_of_difference(p, d.right));
    if (before != nullptr) before[first + at] = x;
  }
  squares = block_sum<kThreads>(squares, shared);
  variation = block_sum<kThreads>(variation, shared);
  if (threadIdx.x != 0) return;
  double* own = sums + 2 * (static_cast<int64_t>(blockIdx.x) * parts + blockIdx.y);
  own[0] = squares;
  own[1] = variation;
}

template <class T>
__global__ void image_norms_kernel(ImagePrior<T> p, const double* __restrict__ sums, int64_t count,
                                   int64_t parts, T* __restrict__ norms, T* __restrict__ values) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  double squares = 0, variation = 0;
  for (int64_t part = 0; part < parts; ++part) {
    squares += sums[2 * (i * parts + part)];
    variation += sums[2 * (i * parts + part) + 1];
  }
  const double norm = sqrt(squares);
  norms[i] = static_cast<T>(norm);
  values[i] = static_cast<T>(variation + static_cast<double>(p.norm) * norm);
}

// Grid: images x blocks of 256 elements.
template <class T>
__global__ void __launch_bounds__(kThreads)
    prior_gradient_kernel(ImagePrior<T> p, const T* __restrict__ images, int64_t size,
                          const T* __restrict__ weights, const T* __restrict__ norms,
                          T* __restrict__ gradient) {
  const int64_t i = blockIdx.x, first = i * size;
  for (int64_t at = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x; at < size;
       at += static_cast<int64_t>(gridDim.y) * kThreads) {
    gradient[first + at] = weights[i] * slope_at(p, images + first, at, norms[i]);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    recall_step_kernel(ImagePrior<T> p, const T* __restrict__ before, int64_t size,
                       const T* __restrict__ grad, T lr, const int64_t* __restrict__ multiplicity,
                       bool per_copy, const T* __restrict__ weights, const T* __restrict__ norms,
                       T* __restrict__ images) {
  const int64_t i = blockIdx.x, first = i * size;
  const T rate = per_copy ? lr / static_cast<T>(copies_of(multiplicity, i)) : lr;
  for (int64_t at = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x; at < size;
       at += static_cast<int64_t>(gridDim.y) * kThreads) {
    const T slope = weights[i] * slope_at(p, before + first, at, norms[i]);
    images[first + at] = before[first + at] - rate * (grad[first + at] + slope);
  }
}

inline unsigned blocks_of_image(int64_t size) {
  const int64_t blocks = divide_up(size, kThreads);
  return static_cast<unsigned>(blocks < 65535 ? blocks : 65535);
}

template <class T>
cudaError_t sum_images(const ImagePrior<T>& p, const T* images, int64_t count,
                       const int64_t* multiplicity, const ImagePriorScratch<T>& s, T* before,
                       cudaStream_t stream) {
  const int64_t size = size_of(p), parts = parts_of_image(size);
  CLFAST_LAUNCH((row_weights_kernel<T>), dim3(1), dim3(kThreads), 0, stream, multiplicity, count,
                s.weights);
  if (count == 0) return cudaGetLastError();
  CLFAST_LAUNCH((image_sums_kernel<T>), grid_of(count, parts), dim3(kThreads), 0, stream, p, images,
                size, s.sums, before);
  CLFAST_LAUNCH((image_norms_kernel<T>), grid_of(divide_up(count, kThreads)), dim3(kThreads), 0,
                stream, p, s.sums, count, parts, s.norms, s.values);
  return cudaGetLastError();
}

template <class T>
cudaError_t image_prior(const ImagePrior<T>& p, const T* images, int64_t count,
                        const int64_t* multiplicity, const ImagePriorScratch<T>& s, T* value,
                        T* gradient, cudaStream_t stream) {
  const cudaError_t status =
      sum_images(p, images, count, multiplicity, s, static_cast<T*>(nullptr), stream);
  if (status != cudaSuccess) return status;
  const int64_t size = size_of(p);
  if (gradient != nullptr && count > 0 && size > 0) {
    CLFAST_LAUNCH((prior_gradient_kernel<T>), grid_of(count, blocks_of_image(size)), dim3(kThreads),
                  0, stream, p, images, size, s.weights, s.norms, gradient);
  }
  CLFAST_LAUNCH((total_kernel<T>), dim3(1), dim3(kThreads), 0, stream, 0.0, 0.0,
                static_cast<const T*>(nullptr), int64_t{0}, s.weights, s.values, count, value);
  return cudaGetLastError();
}

template <class T>
cudaError_t recall_step(const ImagePrior<T>& p, const T* grad, int64_t count, T lr,
                        const int64_t* multiplicity, bool per_copy, const ImagePriorScratch<T>& s,
                        T* before, T* images, cudaStream_t stream) {
  const int64_t size = size_of(p);
  if (count == 0 || size == 0) return cudaSuccess;
  const cudaError_t status = sum_images(p, images, count, multiplicity, s, before, stream);
  if (status != cudaSuccess) return status;
  CLFAST_LAUNCH((recall_step_kernel<T>), grid_of(count, blocks_of_image(size)), dim3(kThreads), 0,
                stream, p, before, size, grad, lr, multiplicity, per_copy, s.weights, s.norms,
                images);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
