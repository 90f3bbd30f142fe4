"""The arms of `throughput.py`: the same trials, run in four ways.

`work` is what all of them share; an arm's file says only how it runs. Everything but `stock` needs
no more than torch, torchvision, timm, numpy, pyarrow and safetensors.
"""
