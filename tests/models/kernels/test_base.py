import tensorflow as tf

from tests.conftest import tiny_config
from trainer.models.kernels.base import EncoderKernels, product_seconds
from trainer.models.kernels.inference import ExportKernels
from trainer.models.kernels.native import NativeKernels
from trainer.models.kernels.native_inference import NativeExportKernels
from trainer.models.kernels.xla import XlaKernels


def test_products_are_measured_once(native):
    products = [(kernels, dtype) for kernels in (XlaKernels, NativeKernels) for dtype in (tf.float32, tf.bfloat16)]
    seconds = product_seconds(*products)
    assert len(seconds) == 4 and all(0 < one < 10 for one in seconds)
    assert product_seconds(*products) is seconds


def test_all_kernels_have_one_interface(native, native_inference):
    names = set()
    for kernels in (XlaKernels, NativeKernels, ExportKernels, NativeExportKernels):
        assert issubclass(kernels, EncoderKernels) and kernels.unfit(tiny_config(), "float32") is None
        assert list(kernels().held_variables()) == []
        names.add(kernels.name)
    assert len(names) == 4
    assert XlaKernels().adamw_update() is None and callable(NativeKernels().adamw_update())
