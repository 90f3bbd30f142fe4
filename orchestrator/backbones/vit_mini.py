"""The architecture of `vit_mini`, the embedded backbone."""

from timm.models.vision_transformer import VisionTransformer


def vit_mini(num_classes: int = 0) -> VisionTransformer:
    """A 0.21 M-parameter ViT for 32x32 images: 17 tokens of 64 channels, four blocks.

    Plain timm, randomly initialised; `vit_mini.safetensors` beside this file fits it strictly
    when `num_classes` is 0. Images (N, 3, 32, 32) are normalised as (x / 255 - 0.5) / 0.5.

    Args:
        num_classes: width of the classification head on the cls token; 0 leaves it out.
    """
    return VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=64,
        depth=4,
        num_heads=4,
        mlp_ratio=4,
        qkv_bias=True,
        num_classes=num_classes,
    )
