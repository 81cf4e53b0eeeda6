"""How the files beside this one were made, with Keras 2 (tf_keras 2.21.0), which is not installed here.

python make.py, in an environment that has tensorflow and tf_keras
"""

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

tf.random.set_seed(0)
images = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)

image = keras.Input((8, 8, 3))
x = layers.Conv2D(4, 3, name="conv1")(image)
x = layers.BatchNormalization(name="bn1")(x)
x = layers.DepthwiseConv2D(3, name="depthwise")(x)
x = layers.Dropout(0.5)(x)
backbone = keras.Model(image, layers.Conv2D(4, 1, name="conv2")(x), name="backbone")

image = keras.Input((8, 8, 3))
x = layers.GlobalAveragePooling2D()(backbone(image))
model = keras.Model(image, layers.Dense(3, name="dense_5")(x))
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(images, np.arange(4) % 3, epochs=3, verbose=0)

model.save("whole.h5")
model.save_weights("checkpoint/of_keras_2")
np.savez_compressed("answers.npz", images=images, logits=model.predict(images, verbose=0))
