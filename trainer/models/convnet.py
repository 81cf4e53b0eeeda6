"""A small convolutional network without pre-trained weights, for proofs and benchmarks that must be quick."""

import keras


def build_convnet(input_shape: tuple[int, int, int]) -> keras.Model:
    """Three blocks of convolution, batch normalisation and ReLU at strides 2, with dropout behind the second.

    Args:
        input_shape: (height, width, channels).

    Returns:
        model from [B, h, w, c] float to the feature map [B, h / 8, w / 8, 64].
    """
    inputs = keras.Input(input_shape)
    x = inputs
    for block, filters in enumerate((16, 32, 64)):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name=f"block{block}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"block{block}_bn")(x)
        x = keras.layers.ReLU(name=f"block{block}_relu")(x)
        if block == 1:
            x = keras.layers.Dropout(0.1, name="block1_dropout")(x)
    return keras.Model(inputs, x, name="convnet")
