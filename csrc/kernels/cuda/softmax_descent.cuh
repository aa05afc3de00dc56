// Gradient descent on softmax regression, and the sweep back: products of matrices in tiles, and a
// thread a sample for what lies between. Formulas and names are those of
// cpu/softmax_descent_steps.h; features have a 1, and weights the bias, as their last column.
#pragma once
#include "product_tile.cuh"
#include "softmax_descent.h"

namespace clfast::cuda {

// Element (row, p) of an operand whose products are summed over p.
template <class T>
struct Operand {
  const T* data;
  int64_t row_stride, depth_stride;
};

// out [rows, columns] += scale a b^T; or = where `fresh`. Grid: tiles of columns x tiles of rows.
template <bool kADepthFast, bool kBDepthFast, class T>
__global__ void __launch_bounds__(kThreads)
    product_kernel(Operand<T> a, Operand<T> b, int64_t rows, int64_t columns, int64_t depth,
                   T scale, bool fresh, T* __restrict__ out) {
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kTile;
  const auto read = [=](const Operand<T>& from, int64_t row, int64_t most, int64_t p) {
    return row < most && p < depth ? from.data[row * from.row_stride + p * from.depth_stride]
                                   : T(0);
  };
  double total[kPerThread][kPerThread];
  accumulate_tile<MultiplyAdd, kADepthFast, kBDepthFast, T>(
      depth, [&](int row, int64_t p) { return read(a, first_row + row, rows, p); },
      [&](int row, int64_t p) { return read(b, first_column + row, columns, p); }, total);
  for_each_entry(total, [&](int r, int c, double value) {
    const int64_t row = first_row + r, column = first_column + c;
    if (row >= rows || column >= columns) return;
    T& entry = out[row * columns + column];
    const T product = scale * static_cast<T>(value);
    entry = fresh ? product : entry + product;
  });
}

template <bool kADepthFast, bool kBDepthFast, class T>
cudaError_t multiply(Operand<T> a, Operand<T> b, int64_t rows, int64_t columns, int64_t depth,
                     T scale, bool fresh, T* out, cudaStream_t stream) {
  if (rows == 0 || columns == 0) return cudaSuccess;
  CLFAST_LAUNCH((product_kernel<kADepthFast, kBDepthFast, T>),
                grid_of(divide_up(columns, kTile), divide_up(rows, kTile)), dim3(kThreads), 0,
                stream, a, b, rows, columns, depth, scale, fresh, out);
  return cudaGetLastError();
}

// out [rows, dim + 1] of rows [rows, dim] with `last` behind each, or ones where it is null;
// without a last column, a copy. And back, into `last` unless it is null.
template <class T>
__global__ void __launch_bounds__(kThreads)
    join_kernel(const T* __restrict__ rows, const T* __restrict__ last, int64_t count, int64_t dim,
                int64_t columns, T* __restrict__ out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= count * columns) return;
  const int64_t row = at / columns, column = at % columns;
  out[at] = column < dim ? rows[row * dim + column] : last == nullptr ? T(1) : last[row];
}
template <class T>
__global__ void __launch_bounds__(kThreads)
    split_kernel(const T* __restrict__ joined, int64_t count, int64_t dim, int64_t columns,
                 T* __restrict__ rows, T* __restrict__ last) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= count * columns) return;
  const int64_t row = at / columns, column = at % columns;
  if (column < dim) {
    rows[row * dim + column] = joined[at];
  } else if (last != nullptr) {
    last[row] = joined[at];
  }
}

// A sample's logits, in `predictions` [C, n], become its predictions; residuals [C, n]: G.
template <class T>
__global__ void __launch_bounds__(kThreads)
    descent_residuals_kernel(const int64_t* __restrict__ labels, int64_t samples, int64_t classes,
                             T* __restrict__ predictions, T* __restrict__ residuals) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= samples) return;
  const T share = T(1) / static_cast<T>(samples);
  T top = predictions[k], sum = T(0);
  for (int64_t i = 1; i < classes; ++i) top = max(top, predictions[i * samples + k]);
  for (int64_t i = 0; i < classes; ++i) sum += exp(predictions[i * samples + k] - top);
  for (int64_t i = 0; i < classes; ++i) {
    const int64_t at = i * samples + k;
    const T p = exp(predictions[at] - top) / sum;
    predictions[at] = p;
    residuals[at] = share * (p - (labels[k] == i ? T(1) : T(0)));
  }
}

// along [C, n], the gradient by G, becomes that by the logits; residuals [C, n]: G.
template <class T>
__global__ void __launch_bounds__(kThreads)
    descent_cotangents_kernel(const int64_t* __restrict__ labels, int64_t samples, int64_t classes,
                              const T* __restrict__ predictions, T* __restrict__ along,
                              T* __restrict__ residuals) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= samples) return;
  const T share = T(1) / static_cast<T>(samples);
  T mean = T(0);
  for (int64_t i = 0; i < classes; ++i) {
    mean += predictions[i * samples + k] * along[i * samples + k];
  }
  for (int64_t i = 0; i < classes; ++i) {
    const int64_t at = i * samples + k;
    along[at] = share * predictions[at] * (along[at] - mean);
    residuals[at] = share * (predictions[at] - (labels[k] == i ? T(1) : T(0)));
  }
}

// residuals [C, n]: the sum of G over the steps, A_T.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_of_residuals_kernel(const int64_t* __restrict__ labels, int64_t samples, int64_t classes,
                            int64_t steps, const T* __restrict__ predictions,
                            T* __restrict__ residuals) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= classes * samples) return;
  T sum = T(0);
  for (int64_t t = 0; t < steps; ++t) sum += predictions[t * classes * samples + at];
  const T own = labels[at % samples] == at / samples ? static_cast<T>(steps) : T(0);
  residuals[at] = (sum - own) / static_cast<T>(samples);
}

template <class T>
cudaError_t join(const T* rows, const T* last, int64_t count, int64_t dim, int64_t columns, T* out,
                 cudaStream_t stream) {
  if (count * columns == 0) return cudaSuccess;
  CLFAST_LAUNCH((join_kernel<T>), grid_of(divide_up(count * columns, kThreads)), dim3(kThreads), 0,
                stream, rows, last, count, dim, columns, out);
  return cudaGetLastError();
}
template <class T>
cudaError_t split(const T* joined, int64_t count, int64_t dim, int64_t columns, T* rows, T* last,
                  cudaStream_t stream) {
  if (count * columns == 0) return cudaSuccess;
  CLFAST_LAUNCH((split_kernel<T>), grid_of(divide_up(count * columns, kThreads)), dim3(kThreads), 0,
                stream, joined, count, dim, columns, rows, last);
  return cudaGetLastError();
}

#define CLFAST_RETURN_ON_ERROR(call)          \
  do {                                        \
    const cudaError_t failed = (call);        \
    if (failed != cudaSuccess) return failed; \
  } while (false)

template <class T>
cudaError_t descend(const DescentProblem<T>& p, T* scratch, T* predictions, T* weight_out,
                    T* bias_out, cudaStream_t stream) {
  const int64_t n = p.samples, classes = p.classes, columns = p.columns();
  T *features = scratch, *weight = features + n * columns, *residuals = weight + classes * columns;
  CLFAST_RETURN_ON_ERROR(join<T>(p.features, nullptr, n, p.dim, columns, features, stream));
  CLFAST_RETURN_ON_ERROR(join(p.weight, p.bias, classes, p.dim, columns, weight, stream));
  for (int64_t t = 0; t < p.steps && n > 0; ++t) {
    T* own = predictions + t * classes * n;
    CLFAST_RETURN_ON_ERROR((multiply<true, true, T>({weight, columns, 1}, {features, columns, 1},
                                                    classes, n, columns, T(1), true, own, stream)));
    CLFAST_LAUNCH((descent_residuals_kernel<T>), grid_of(divide_up(n, kThreads)), dim3(kThreads), 0,
                  stream, p.labels, n, classes, own, residuals);
    CLFAST_RETURN_ON_ERROR(
        (multiply<true, false, T>({residuals, n, 1}, {features, 1, columns}, classes, columns, n,
                                  -p.lr, false, weight, stream)));
  }
  return split(weight, classes, p.dim, columns, weight_out, bias_out, stream);
}

template <class T>
cudaError_t ascend(const DescentProblem<T>& p, const T* predictions, const T* weight_grad,
                   const T* bias_grad, T* scratch, T* features_out, T* weight_out, T* bias_out,
                   cudaStream_t stream) {
  const int64_t n = p.samples, classes = p.classes, columns = p.columns();
  T *features = scratch, *weight = features + n * columns, *grad = weight + classes * columns;
  T *of_features = grad + classes * columns, *residuals = of_features + n * columns;
  T* along = residuals + classes * n;
  CLFAST_RETURN_ON_ERROR(join<T>(p.features, nullptr, n, p.dim, columns, features, stream));
  CLFAST_RETURN_ON_ERROR(join(p.weight, p.bias, classes, p.dim, columns, weight, stream));
  CLFAST_RETURN_ON_ERROR(join(weight_grad, bias_grad, classes, p.dim, columns, grad, stream));
  const Operand<T> samples_of_features{features, 1, columns};
  // C x D += scale [C, n] H.
  const auto add = [&](const T* of_samples, T scale, T* out) {
    return multiply<true, false, T>({of_samples, n, 1}, samples_of_features, classes, columns, n,
                                    scale, false, out, stream);
  };
  // dH += scale [C, n]' layer, or = without what was there; 0 classes make 0.
  const auto add_to_features = [&](const T* of_samples, const T* layer, int64_t count, T scale,
                                   bool fresh) {
    return multiply<false, false, T>({of_samples, 1, n}, {layer, 1, columns}, n, columns, count,
                                     scale, fresh, of_features, stream);
  };
  if (n > 0) {
    CLFAST_LAUNCH((sum_of_residuals_kernel<T>), grid_of(divide_up(classes * n, kThreads)),
                  dim3(kThreads), 0, stream, p.labels, n, classes, p.steps, predictions, residuals);
    CLFAST_RETURN_ON_ERROR(add(residuals, -p.lr, weight));
    CLFAST_RETURN_ON_ERROR(add_to_features(residuals, grad, 0, T(1), true));
  }
  for (int64_t t = p.steps - 1; t >= 0 && n > 0; --t) {
    CLFAST_RETURN_ON_ERROR(
        (multiply<true, true, T>({grad, columns, 1}, {features, columns, 1}, classes, n, columns,
                                 -p.lr, true, along, stream)));
    CLFAST_LAUNCH((descent_cotangents_kernel<T>), grid_of(divide_up(n, kThreads)), dim3(kThreads),
                  0, stream, p.labels, n, classes, predictions + t * classes * n, along, residuals);
    CLFAST_RETURN_ON_ERROR(add(residuals, p.lr, weight));
    CLFAST_RETURN_ON_ERROR(add_to_features(along, weight, classes, T(1), false));
    CLFAST_RETURN_ON_ERROR(add_to_features(residuals, grad, classes, -p.lr, false));
    CLFAST_RETURN_ON_ERROR(add(along, T(1), grad));
  }
  CLFAST_RETURN_ON_ERROR(split<T>(of_features, n, p.dim, columns, features_out, nullptr, stream));
  return split(grad, classes, p.dim, columns, weight_out, bias_out, stream);
}
#undef CLFAST_RETURN_ON_ERROR

}  // namespace clfast::cuda
