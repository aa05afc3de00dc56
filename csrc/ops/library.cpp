// Every op of clfast. In-place ops end in _ and return nothing.
#include <torch/csrc/stable/library.h>

#include <string>

#include "../kernels/cpu/simd.h"

STABLE_TORCH_LIBRARY(clfast, m) {
  // retrieval
  m.def(
      "knn(Tensor queries, Tensor keys, int k, Tensor? key_sq_norms, Tensor? rounded_rows, "
      "Tensor? rounded_offset) -> (Tensor, Tensor)");
  m.def("rerank(Tensor queries, Tensor keys, Tensor candidates, int k) -> (Tensor, Tensor)");
  m.def("class_means(Tensor features, Tensor labels, int num_classes, bool normalize) -> Tensor");
  m.def("nearest_class_mean(Tensor features, Tensor means, str metric) -> Tensor");

  // adaptation; sq_distances and indices are the two halves of knn's Neighbors
  m.def(
      "hebbian_update(Tensor keys, Tensor labels, Tensor sq_distances, Tensor indices, "
      "int num_classes, float eps, Tensor? select, Tensor? closeness) -> (Tensor, Tensor)");
  m.def(
      "mbpa_update(Tensor weight, Tensor? bias, Tensor keys, Tensor labels, Tensor sq_distances, "
      "Tensor indices, int steps, float lr, str optimizer, float eps, Tensor? closeness) "
      "-> (Tensor, Tensor)");
  m.def(
      "hebb_logits(Tensor queries, Tensor weight, Tensor? bias, Tensor keys, Tensor labels, "
      "Tensor sq_distances, Tensor indices, Tensor interpolation, float eta, int steps, float lr, "
      "str optimizer, float eps, Tensor? select, Tensor? key_sq_norms, Tensor? base_logits, "
      "Tensor? closeness) -> Tensor");
  m.def("interpolation_weights(Tensor counts, float beta, ScalarType dtype) -> Tensor");
  m.def(
      "mixture_log_probs(Tensor logits, Tensor queries, Tensor keys, Tensor labels, "
      "Tensor sq_distances, Tensor indices, float theta, float gamma, str form, "
      "Tensor? key_sq_norms) -> Tensor");

  // recall; a loss comes with its gradients
  m.def(
      "recall_loss(Tensor old_logits, Tensor new_logits, Tensor present_classes, "
      "float divergence_weight, float not_local_old, float not_local_new, float diversity, "
      "float sharpness, str divergence, Tensor? multiplicity) -> (Tensor, Tensor, Tensor)");
  m.def(
      "recall_gradients(Tensor old_logits, Tensor new_logits, Tensor present_classes, "
      "float divergence_weight, float not_local_old, float not_local_new, float diversity, "
      "float sharpness, str divergence, Tensor? multiplicity) -> (Tensor, Tensor, Tensor)");
  m.def("divergence(Tensor p_logits, Tensor q_logits, str kind) -> (Tensor, Tensor, Tensor)");
  m.def(
      "soft_cross_entropy(Tensor logits, Tensor target_logits, float temperature, "
      "Tensor? multiplicity) -> (Tensor, Tensor)");
  m.def(
      "image_prior(Tensor images, float tv_weight, float l2_weight, Tensor? multiplicity, "
      "bool with_gradient) -> (Tensor, Tensor)");
  m.def("total_variation(Tensor images, str norm, bool with_gradient) -> (Tensor, Tensor)");
  m.def(
      "recall_step_(Tensor(a!) images, Tensor grad, float lr, float tv_weight, float l2_weight, "
      "Tensor? multiplicity, bool per_copy) -> ()");

  // consolidation
  m.def("project_gradients_(Tensor(a!)[] grads, Tensor[] reference) -> ()");
  m.def("gem_project(Tensor grad, Tensor memory_grads, float margin) -> Tensor");
  m.def(
      "quadratic_penalty(Tensor[] params, Tensor[] anchors, Tensor[] importances, "
      "bool with_gradient) -> (Tensor, Tensor[])");
  m.def(
      "add_penalty_gradients_(Tensor(a!)[] grads, Tensor[] params, Tensor[] anchors, "
      "Tensor[] importances, float strength) -> ()");
  m.def(
      "path_integral_(Tensor(a!)[] omegas, Tensor[] grads, Tensor[] deltas, Tensor[]? before) "
      "-> ()");

  // masks; what is reserved is bool, or packed by pack_mask
  m.def("masked_weight(Tensor weight, Tensor embedding, float scale, float? max_scale) -> Tensor");
  m.def(
      "masked_weight_backward(Tensor grad, Tensor weight, Tensor embedding, float scale, "
      "float? max_scale) -> (Tensor, Tensor)");
  m.def(
      "mask_sparsity(Tensor[] embeddings, Tensor[] reserved, float scale, float? max_scale, "
      "bool with_gradient) -> (Tensor, Tensor[])");
  m.def(
      "masked_weights(Tensor[] weights, Tensor[] embeddings, Tensor[] reserved, float scale, "
      "float? max_scale) -> (Tensor[], Tensor, Tensor)");
  m.def(
      "masked_weights_gradients(Tensor[] grads, Tensor sparsity_grad, Tensor[] weights, "
      "Tensor[] embeddings, Tensor[] reserved, Tensor? free, float scale, float? max_scale) "
      "-> (Tensor[], Tensor[])");
  m.def("block_gradients_(Tensor(a!)[] grads, Tensor[] reserved) -> ()");
  m.def(
      "compensate_embedding_gradients_(Tensor(a!)[] grads, Tensor[] embeddings, float scale, "
      "float max_scale, str compensation, float clamp) -> ()");
  m.def("reserve_(Tensor(a!)[] reserved, Tensor[] embeddings, float scale) -> Tensor");
  m.def("pack_mask(Tensor mask) -> Tensor");
  m.def("unpack_mask(Tensor packed, int[] shape) -> Tensor");

  // optimizers; the list of a state that is not kept is empty
  m.def(
      "masked_sgd_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momentum_buffers, "
      "Tensor?[] reserved, float lr, float momentum, float dampening, float weight_decay, "
      "bool nesterov, bool maximize, Tensor? clip) -> ()");
  m.def(
      "masked_adam_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
      "Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] max_exp_avg_sqs, Tensor?[] reserved, int[] steps, "
      "float lr, float[] betas, float eps, float weight_decay, "
      "bool decoupled_weight_decay, bool maximize, Tensor? clip) -> ()");
  m.def("masked_grad_norm(Tensor[] grads, Tensor?[] reserved) -> Tensor");

  // exemplars; herding's picks of a class are where its members are when sorted by label, then -1;
  // sizes hold the number of members at the first of these places, 0 at the others
  m.def("herding(Tensor features, Tensor labels, int m) -> (Tensor picks, Tensor sizes)");

  // predictions [T, C, n] are of every step; bias and its gradients are empty without a bias
  m.def(
      "softmax_descent(Tensor features, Tensor labels, Tensor weight, Tensor? bias, int steps, "
      "float lr) -> (Tensor weight, Tensor bias, Tensor predictions)");
  m.def(
      "softmax_descent_backward(Tensor weight_grad, Tensor? bias_grad, Tensor features, "
      "Tensor labels, Tensor weight, Tensor? bias, Tensor predictions, float lr) "
      "-> (Tensor, Tensor, Tensor)");

  // their losses and heads; a loss comes with its gradient, logits with what their gradients take
  // of the forward pass
  m.def(
      "distillation_loss(Tensor student, Tensor teacher, float temperature, str reduction, "
      "bool scale_t2) -> (Tensor, Tensor)");
  m.def(
      "margin_ranking_loss(Tensor cosines, Tensor labels, Tensor new_classes, float margin, int k) "
      "-> (Tensor, Tensor)");
  m.def(
      "cosine_logits(Tensor features, Tensor weight, Tensor scale) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "cosine_logits_backward(Tensor grad, Tensor features, Tensor weight, Tensor scale, "
      "Tensor scaled_features, Tensor unit_weight, Tensor inverse_lengths) "
      "-> (Tensor, Tensor, Tensor)");
  m.def("bias_correct(Tensor logits, Tensor new_classes, Tensor scale, Tensor shift) -> Tensor");
  m.def(
      "bias_correct_backward(Tensor grad, Tensor logits, Tensor new_classes, Tensor scale) "
      "-> (Tensor, Tensor, Tensor)");

  // n perceptrons of as many layers, one behind another in the lists; hidden units are [n, B, out].
  // For the CPU alone.
  m.def(
      "perceptron_logits(Tensor x, Tensor[] weights, Tensor?[] biases, int networks) "
      "-> (Tensor[] logits, Tensor[] hidden)");
  m.def("perceptron_gradient(Tensor[] grads, Tensor[] weights, Tensor[] hidden) -> Tensor");

  // the SIMD level in use: 0 base, 1 avx2, 2 avx512, 3 avx512_bf16
  m.def("simd_level() -> int");
  m.def("set_simd_level(int level) -> ()");
  // what the libraries were built with; the second is there when _C_cuda.so is loaded
  m.def("build_info() -> str");
  m.def("cuda_build_info() -> str");
}

namespace {

int64_t simd_level() { return static_cast<int64_t>(clfast::cpu::simd_level()); }

void set_simd_level(int64_t level) {
  clfast::cpu::set_simd_level(static_cast<clfast::cpu::Simd>(level));
}

std::string build_info() {
  return std::string(CLFAST_COMPILER) + "; best SIMD level of this processor " +
         clfast::cpu::simd_name(clfast::cpu::best_simd_level());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(clfast, CompositeExplicitAutograd, m) {
  m.impl("simd_level", TORCH_BOX(&simd_level));
  m.impl("set_simd_level", TORCH_BOX(&set_simd_level));
  m.impl("build_info", TORCH_BOX(&build_info));
}
