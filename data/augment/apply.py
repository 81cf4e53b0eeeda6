"""The one kernel: canvases, a warp and a colour matrix in, the network's float pixels out."""

import tensorflow as tf

FILLS = ("nearest", "constant")


@tf.function(jit_compile=True, reduce_retracing=False)
def render(
    canvas: tf.Tensor,
    size: tf.Tensor,
    geometry: tf.Tensor,
    colour: tf.Tensor,
    *,
    image_size: int,
    samples: int = 1,
    fill: str = "nearest",
) -> tf.Tensor:
    """Samples every output pixel once, bilinearly, and multiplies its colour. Compiled with XLA, free of variables.

    Args:
        canvas: [B, capacity * 3] uint8, see `data.decode.read_canvas`.
        size: [B, 2] int32, height and width of the image in each canvas.
        geometry: [B, 3, 3] float32, pixel of the output -> pixel of the canvas.
        colour: [B, 3, 4] float32, (red, green, blue, 1) in 0..255 -> the network's channels.
        image_size: side of the output.
        samples: each output pixel is the mean of samples x samples points, against aliasing when shrinking.
        fill: outside the image, `nearest` pixel or `constant` black.

    Returns:
        [B, image_size, image_size, 3] float32.
    """
    batch = canvas.shape[0]
    side = image_size * samples
    pixels = tf.reshape(canvas, [batch, -1, 3])
    height, width = size[:, 0, None], size[:, 1, None]

    grid = (tf.range(side, dtype=tf.float32) + 0.5) / samples - 0.5
    out_x = tf.tile(grid, [side])[None]
    out_y = tf.repeat(grid, side)[None]
    x, y, w = (
        geometry[:, row, 0, None] * out_x + geometry[:, row, 1, None] * out_y + geometry[:, row, 2, None]
        for row in range(3)
    )
    # A pixel far outside is as good as one just outside; int32 cannot hold the former.
    x = tf.clip_by_value(x / w, -2.0, tf.cast(width, tf.float32) + 1.0)
    y = tf.clip_by_value(y / w, -2.0, tf.cast(height, tf.float32) + 1.0)
    left, top = tf.floor(x), tf.floor(y)
    right_share, lower_share = x - left, y - top
    left, top = tf.cast(left, tf.int32), tf.cast(top, tf.int32)

    def tap(column, row, share):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        place = tf.clip_by_value(row, 0, height - 1) * width + tf.clip_by_value(column, 0, width - 1)
        share = tf.where(inside, share, 0.0) if fill == "constant" else share
        return tf.cast(tf.gather(pixels, place, batch_dims=1), tf.float32) * share[..., None]

    colours = (
        tap(left, top, (1 - right_share) * (1 - lower_share))
        + tap(left + 1, top, right_share * (1 - lower_share))
        + tap(left, top + 1, (1 - right_share) * lower_share)
        + tap(left + 1, top + 1, right_share * lower_share)
    )
    if samples > 1:
        cells = tf.reshape(colours, [batch, image_size, samples, image_size, samples, 3])
        colours = tf.reduce_mean(cells, axis=[2, 4])
    colours = tf.reshape(colours, [batch, image_size * image_size, 3])
    channels = (colours[..., channel, None] * colour[:, None, :, channel] for channel in range(3))
    out = sum(channels, start=colour[:, None, :, 3])
    return tf.reshape(out, [batch, image_size, image_size, 3])
