"""What every model returns."""

import flax.struct
import jax


@flax.struct.dataclass
class Output:
  """Outputs of a classifier for a batch of B images.

  Attributes:
    logits: float32 [B, num_classes].
    features: float32 [B, D], the pooled representation that the head sees.
    distilled_logits: float32 [B, num_classes] of a distillation head, None without one.
  """

  logits: jax.Array
  features: jax.Array
  distilled_logits: jax.Array | None = None

  @classmethod
  def of_two_heads(
    cls, logits: jax.Array, distilled: jax.Array, features: jax.Array, train: bool
  ) -> "Output":
    """Returns the output of a model with a distillation head (DeiT, 2012.12877, §4).

    Each head learns from its own logits; in evaluation `logits` are the mean of both.
    """
    return cls(logits if train else (logits + distilled) / 2, features, distilled)
