"""The ops: typed public functions over the compiled kernels, one module a family.

Every function takes CPU and CUDA tensors, non-contiguous inputs and empty batches, and works under
``torch.compile(fullgraph=True)``. Arguments are checked before anything is computed; a message
names the op and the argument. ``float16`` and ``bfloat16`` inputs are widened, and all arithmetic
and results are float32; float64 inputs give float64 results and do not mix with other dtypes.
Ops without a gradient refuse inputs that require one while grad mode is on.
"""

from .._library import load as _load

_load(
    (
        "knn",
        "class_means",
        "nearest_class_mean",
        "hebbian_update",
        "mbpa_update",
        "hebb_logits",
        "interpolation_weights",
        "mixture_log_probs",
        "recall_loss",
        "recall_gradients",
        "divergence",
        "soft_cross_entropy",
        "image_prior",
        "total_variation",
        "recall_step_",
        "project_gradients_",
        "gem_project",
        "quadratic_penalty",
        "add_penalty_gradients_",
        "masked_weight",
        "masked_weights",
        "mask_sparsity",
        "block_gradients_",
        "compensate_embedding_gradients_",
        "reserve_",
        "pack_mask",
        "unpack_mask",
        "masked_sgd_step_",
        "masked_adam_step_",
        "masked_grad_norm",
        "herding",
        "softmax_descent",
        "softmax_descent_backward",
        "distillation_loss",
        "margin_ranking_loss",
        "cosine_logits",
        "bias_correct",
    )
)

from . import (  # noqa: E402 - registers what they wrap
    adaptation,
    consolidation,
    exemplars,
    masks,
    optimizers,
    recall,
    retrieval,
)
from .adaptation import (  # noqa: E402
    hebb_logits,
    hebbian_update,
    interpolation_weights,
    mbpa_update,
    mixture_log_probs,
)
from .consolidation import (  # noqa: E402
    add_penalty_gradients_,
    gem_project,
    mas_importance,
    mir_scores,
    per_sample_fisher,
    project_gradients_,
    quadratic_penalty,
    rwalk_importance_,
)
from .exemplars import (  # noqa: E402
    bias_correct,
    cosine_logits,
    distillation_loss,
    herding,
    margin_ranking_loss,
    softmax_descent,
)
from .masks import (  # noqa: E402
    anneal_scale,
    block_gradients_,
    compensate_embedding_gradients_,
    mask_sparsity,
    masked_weight,
    masked_weights,
    masked_weights_gradients,
    pack_mask,
    reserve_,
    unpack_mask,
    weight_mask,
)
from .optimizers import masked_adam_step_, masked_grad_norm, masked_sgd_step_  # noqa: E402
from .recall import (  # noqa: E402
    divergence,
    image_prior,
    recall_gradients,
    recall_loss,
    recall_step_,
    soft_cross_entropy,
    total_variation,
)
from .retrieval import (  # noqa: E402
    Neighbors,
    RoundedKeys,
    class_means,
    knn,
    nearest_class_mean,
)

__all__ = [
    "Neighbors",
    "RoundedKeys",
    "adaptation",
    "add_penalty_gradients_",
    "anneal_scale",
    "bias_correct",
    "block_gradients_",
    "class_means",
    "compensate_embedding_gradients_",
    "consolidation",
    "cosine_logits",
    "distillation_loss",
    "divergence",
    "exemplars",
    "gem_project",
    "hebb_logits",
    "hebbian_update",
    "herding",
    "image_prior",
    "interpolation_weights",
    "knn",
    "margin_ranking_loss",
    "mas_importance",
    "mask_sparsity",
    "masked_adam_step_",
    "masked_grad_norm",
    "masked_sgd_step_",
    "masked_weight",
    "masked_weights",
    "masked_weights_gradients",
    "masks",
    "mbpa_update",
    "mir_scores",
    "mixture_log_probs",
    "nearest_class_mean",
    "optimizers",
    "pack_mask",
    "per_sample_fisher",
    "project_gradients_",
    "quadratic_penalty",
    "recall",
    "recall_gradients",
    "recall_loss",
    "recall_step_",
    "reserve_",
    "retrieval",
    "rwalk_importance_",
    "soft_cross_entropy",
    "softmax_descent",
    "total_variation",
    "unpack_mask",
    "weight_mask",
]
