/* Compares every kernel of a level with the portable one, byte by byte, over random shapes.
 *
 * Stands in for program.c; arguments: level, first seed, number of seeds. The exit status is 1 where something
 * differs, 3 where the processor or the library lacks the level. */
#include "arm_kernels.h"

static qc_conv2d random_conv(int depthwise, int64_t *shape)
{
    qc_conv2d p = {.batch = between(1, 2), .height = between(1, 12), .width = between(1, 20)};
    const int square = maybe(60);
    p.kernel_h = square ? (maybe(50) ? 3 : maybe(50) ? 5 : 1) : between(1, 7);
    p.kernel_w = square ? p.kernel_h : between(1, 7);
    p.stride_h = p.stride_w = between(1, 2);
    p.dilation_h = p.dilation_w = maybe(85) ? 1 : 2;
    if (maybe(10))
        p.stride_w = between(1, 4);
    p.pad_top = between(0, p.kernel_h - 1);
    p.pad_left = between(0, p.kernel_w - 1);
    p.groups = 1;
    p.channels = depthwise ? between(1, 140) : between(1, 70);
    p.out_channels = depthwise ? p.channels : between(1, 90);
    if (depthwise)
        p.groups = p.channels;
    else if (maybe(15)) {
        p.groups = between(2, 4);
        p.channels = p.groups * between(1, 20);
        p.out_channels = p.groups * between(1, 40);
    }
    p.height += (p.kernel_h - 1) * p.dilation_h;
    p.width += (p.kernel_w - 1) * p.dilation_w;
    p.out_height = (p.height + 2 * p.pad_top - (p.kernel_h - 1) * p.dilation_h - 1) / p.stride_h + 1;
    p.out_width = (p.width + 2 * p.pad_left - (p.kernel_w - 1) * p.dilation_w - 1) / p.stride_w + 1;
    p.widest = between(1, 4);
    p.block_rows = between(8, 200);
    p.pad_value = (int32_t)between(-128, 127);
    p.weight = weight;
    p.pairs = pairs;
    p.columns = columns;
    const int64_t all[10] = {p.height, p.width, p.channels, p.out_channels, p.kernel_h, p.kernel_w, p.stride_w,
                             p.dilation_w, p.groups, p.widest};
    memcpy(shape, all, sizeof all);
    return p;
}

static void test_conv(uint64_t seed)
{
    int64_t shape[10];
    qc_conv2d p = random_conv(0, shape);
    if (maybe(40)) {
        p.kernel_h = p.kernel_w = p.stride_h = p.stride_w = p.dilation_h = p.dilation_w = 1;
        p.pad_top = p.pad_left = 0;
        p.out_height = p.height;
        p.out_width = p.width;
    }
    const int64_t depth = p.channels / p.groups, panels = p.groups * ((p.out_channels / p.groups + 15) / 16);
    pack(panels * p.kernel_h * p.kernel_w, depth);
    const int has_residual = maybe(30);
    p.epilogue = epilogue_of(panels * 16, depth * p.kernel_h * p.kernel_w, has_residual);
    const int64_t count = p.batch * p.out_height * p.out_width * p.out_channels;
    fill(x, p.batch * p.height * p.width * p.channels + 64);
    fill(residual, count + 64);
    CODES(qc_conv2d_u8_s8c_u8, count, &context, &p, x, has_residual ? residual : NULL)
    int32_t *wide;
    BOTH(wide, first_sums, second_sums, qc_conv2d_u8_s8c_i32(&context, &p, x, wide))
    compare("conv2d_i32", first_sums, second_sums, count * 4, seed, shape);
}

static void test_gemv(uint64_t seed)
{
    qc_conv2d p = {.channels = between(1, 300), .out_channels = between(1, 200), .groups = 1, .weight = weight,
                   .pairs = pairs, .columns = columns};
    const int64_t panels = (p.out_channels + 15) / 16, shape[10] = {p.channels, p.out_channels};
    pack(panels, p.channels);
    const int has_residual = maybe(30);
    p.epilogue = epilogue_of(panels * 16, p.channels, has_residual);
    fill(x, p.channels + 64);
    fill(residual, p.out_channels + 64);
    CODES(qc_gemv_u8_s8c_u8, p.out_channels, &context, &p, x, has_residual ? residual : NULL)
    int32_t *wide;
    BOTH(wide, first_sums, second_sums, qc_gemv_u8_s8c_i32(&context, &p, x, wide))
    compare("gemv_i32", first_sums, second_sums, p.out_channels * 4, seed, shape);
}

static void test_rows(uint64_t seed)
{
    int64_t shape[10];
    qc_conv2d_rows r = {.conv = random_conv(0, shape), .rows_at_once = between(1, 4)};
    qc_conv2d *p = &r.conv;
    p->groups = 1;
    p->dilation_w = 1;
    p->out_width = (p->width + 2 * p->pad_left - p->kernel_w) / p->stride_w + 1;
    const int64_t depth = p->channels * p->kernel_w, panels = (p->out_channels + 15) / 16;
    pack(panels * p->kernel_h, depth);
    const int has_residual = maybe(30);
    p->epilogue = epilogue_of(panels * 16, depth * p->kernel_h, has_residual);
    const int64_t count = p->batch * p->out_height * p->out_width * p->out_channels;
    fill(x, p->batch * p->height * p->width * p->channels + 64);
    fill(residual, count + 64);
    CODES(qc_conv2d_rows_u8_s8c_u8, count, &context, &r, x, has_residual ? residual : NULL)
}

static void plan_depthwise(qc_depthwise *d, int64_t at_once)
{
    const qc_conv2d *p = &d->conv;
    const int64_t quads = (p->out_width + 3) / 4, last = (3 * p->stride_w + p->kernel_w + 3) / 4;
    const int64_t reach = (p->kernel_w - 1) * p->dilation_w + 1;
    const int64_t in_quads = (quads - 1) * p->stride_w + last;
    const int64_t pixels = ((p->out_width - 1) * p->stride_w + reach + 3) / 4;
    d->row_bytes = 2 * 256 * (in_quads > pixels ? in_quads : pixels);
    d->rows_at_once = at_once;
    const int64_t quads_h = (p->kernel_h + 3) / 4, live = (p->kernel_h - 1) * p->dilation_h + 1;
    d->quad_columns = 40;
    d->buffer_bytes = 64 * (4 * quads_h + 1) * d->quad_columns;
    if (d->buffer_bytes < d->row_bytes)
        d->buffer_bytes = d->row_bytes;
    d->ring_rows = (live + 2 * at_once - 1) / at_once * at_once;
    d->scratch = 4096;
    fill_weights(weight, (p->channels + 63) / 64 * 64 * 4 * p->kernel_h * ((p->kernel_w + 3) / 4));
    for (int64_t i = 0, taps = (p->kernel_w + 3) / 4 * 4; i < (p->channels + 63) / 64 * 64 * p->kernel_h * taps; i++)
        if (i / 256 % (taps / 4) * 4 + i % 4 >= p->kernel_w)
            weight[i] = 0;
    const int64_t panels = (p->channels + 15) / 16 * 16, groups = (p->kernel_w + 3) / 4;
    for (int64_t ky = 0; ky < p->kernel_h; ky++)
        for (int64_t kx = 0; kx < p->kernel_w; kx++)
            for (int64_t channel = 0; channel < panels; channel++) {
                const int64_t block = channel / 64, n = channel % 64;
                const int8_t *of_row = weight + (block * p->kernel_h + ky) * groups * 256 + kx / 4 * 256;
                columns[(ky * p->kernel_w + kx) * panels + channel] =
                    of_row[n / 4 % 4 * 64 + n / 16 * 16 + n % 4 * 4 + kx % 4];
            }
}

static void test_depthwise(uint64_t seed)
{
    int64_t shape[10];
    qc_depthwise d = {.conv = random_conv(1, shape)};
    qc_conv2d *p = &d.conv;
    plan_depthwise(&d, 1);
    const int has_residual = maybe(30);
    p->epilogue = epilogue_of((p->channels + 63) / 64 * 64, p->kernel_h * p->kernel_w, has_residual);
    const int64_t count = p->batch * p->out_height * p->out_width * p->channels;
    fill(x, p->batch * p->height * p->width * p->channels + 64);
    fill(residual, count + 64);
    CODES(qc_depthwise_u8_s8c_u8, count, &context, &d, x, has_residual ? residual : NULL)
}

static void test_pointwise_depthwise(uint64_t seed)
{
    static int8_t taps[ROOM / 4], by_taps[ROOM / 4];
    static int32_t others[4][1024];
    int64_t shape[10];
    qc_pointwise_depthwise both = {.depthwise = {.conv = random_conv(1, shape)}};
    qc_conv2d *p = &both.depthwise.conv, *before = &both.pointwise;
    plan_depthwise(&both.depthwise, between(1, 3));
    p->epilogue = epilogue_of((p->channels + 63) / 64 * 64, p->kernel_h * p->kernel_w, 0);
    p->epilogue.table = NULL;
    memcpy(taps, weight, sizeof taps);
    memcpy(by_taps, columns, sizeof by_taps);
    int32_t *const arrays[4] = {bias, multiplier, shift, right};
    for (int i = 0; i < 4; i++)
        memcpy(others[i], arrays[i], sizeof others[i]);
    p->weight = taps;
    p->columns = by_taps;
    p->epilogue = (qc_epilogue){.bias = others[0], .multiplier = others[1], .shift = others[2], .right = others[3],
                                .fits_words = p->epilogue.fits_words, .zero_point = p->epilogue.zero_point,
                                .qmin = p->epilogue.qmin, .qmax = p->epilogue.qmax};
    for (int64_t i = 0; i < 1024; i++)
        others[2][i] = others[2][i] < 32 ? 32 : others[2][i];
    *before = (qc_conv2d){.batch = p->batch, .height = p->height, .width = p->width, .channels = between(1, 70),
                          .out_height = p->height, .out_width = p->width, .out_channels = p->channels, .kernel_h = 1,
                          .kernel_w = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .groups = 1,
                          .widest = between(1, 4), .block_rows = 200, .weight = weight, .pairs = pairs,
                          .columns = columns};
    shape[3] = before->channels;
    pack((p->channels + 15) / 16, before->channels);
    before->epilogue = epilogue_of((p->channels + 15) / 16 * 16, before->channels, 0);
    fill(x, p->batch * p->height * p->width * before->channels + 64);
    CODES(qc_pointwise_depthwise_u8, p->batch * p->out_height * p->out_width * p->channels, &context, &both, x)
}

static void test_matmul(uint64_t seed)
{
    qc_matmul p = {.rank = 1, .rows = between(1, 40), .columns = between(1, 140), .depth = between(1, 70)};
    p.shape[0] = between(1, 3);
    p.a_stride[0] = p.rows * p.depth;
    p.b_stride[0] = maybe(30) ? 0 : p.depth * p.columns;
    p.a_zero_point = maybe(50) ? 0 : (int32_t)between(-128, 127);
    p.b_zero_point = maybe(50) ? 0 : (int32_t)between(-128, 127);
    p.per_column = maybe(50);
    p.epilogue = epilogue_of((p.columns + 63) / 64 * 64, p.depth, 0);
    p.epilogue.bias = NULL;
    p.epilogue.table = NULL;
    if (!p.per_column)
        for (int i = 0; i < 64; i++) {
            multiplier[i] = multiplier[0];
            shift[i] = shift[0];
            left[i] = left[0];
            right[i] = right[0];
        }
    const int64_t shape[10] = {p.shape[0], p.rows, p.columns, p.depth, p.a_zero_point, p.b_zero_point, p.per_column};
    const int64_t count = p.shape[0] * p.rows * p.columns;
    fill(x, p.shape[0] * p.rows * p.depth + 64);
    fill(y, p.shape[0] * p.depth * p.columns + 64);
    CODES(qc_matmul_u8_u8_u8, count, &context, &p, x, y)
    int32_t *wide;
    BOTH(wide, first_sums, second_sums, qc_matmul_u8_u8_i32(&context, &p, x, y, wide))
    compare("matmul_i32", first_sums, second_sums, count * 4, seed, shape);
}

static void test_borders(uint64_t seed)
{
    qc_quantize p = {.batch = between(1, 2), .channels = maybe(50) ? between(1, 5) : between(1, 150),
                     .pixels = between(1, 300), .scale = (float)between(1, 1000) / 8.0f};
    bounds(&p.zero_point, &p.qmin, &p.qmax);
    const int64_t shape[10] = {p.batch, p.channels, p.pixels}, count = p.batch * p.channels * p.pixels;
    for (int64_t i = 0; i < count; i++) {
        const uint32_t bits = next() * 2 + next();
        numbers[i] = (float)between(-4000, 4000) / 64.0f;
        if (maybe(10))
            memcpy(numbers + i, &bits, sizeof bits);
    }
    fill(x, count);
    CODES(qc_quantize_f32_u8, count, &context, &p, numbers)
    float *wide;
    BOTH(wide, first_numbers, second_numbers, qc_dequantize_u8_f32(&context, &p, x, wide))
    compare("dequantize", first_numbers, second_numbers, count * 4, seed, shape);
}

static void test_requantize(uint64_t seed)
{
    qc_requantize p = {.outer = between(1, 40), .channels = between(1, 90), .inner = 1, .multiplier = multiplier,
                       .shift = shift};
    if (maybe(50)) {
        p.channels = between(1, 3);
        p.inner = between(1, 200);
    }
    fill_scaling(p.channels, maybe(50) ? 8 : 16);
    bounds(&p.zero_point, &p.qmin, &p.qmax);
    const int64_t count = p.outer * p.channels * p.inner, shape[10] = {p.outer, p.channels, p.inner};
    for (int64_t i = 0; i < count; i++)
        sums[i] = (int32_t)(next() << 1 ^ next()) >> between(0, 20);
    CODES(qc_requantize_i32_u8, count, &context, &p, sums)
    p.x_zero_point = (int32_t)between(-128, 127);
    fill(x, count);
    CODES(qc_requantize_u8_u8, count, &context, &p, x)
}

static void test_elementwise(uint64_t seed)
{
    qc_binary p = {.rank = 2};
    p.shape[0] = between(1, 10);
    p.shape[1] = between(1, 100);
    p.a_stride[0] = p.out_stride[0] = p.shape[1];
    p.a_stride[1] = p.out_stride[1] = 1;
    p.b_stride[0] = maybe(50) ? 0 : p.shape[1];
    p.b_stride[1] = maybe(30) ? 0 : 1;
    const int64_t count = p.shape[0] * p.shape[1], shape[10] = {p.shape[0], p.shape[1], p.b_stride[0], p.b_stride[1]};
    int32_t k[8];
    fill(x, count + 64);
    fill(y, count + 64);
    fill_sum(k);
    p.a_zero_point = k[0];
    p.a_multiplier = k[1];
    p.b_zero_point = k[2];
    p.b_multiplier = k[3];
    p.shift = k[4];
    p.zero_point = k[5];
    p.qmin = k[6];
    p.qmax = k[7];
    CODES(qc_add_u8, count, &context, &p, x, y)
    fill_scaling(1, maybe(50) ? 14 : 8);
    p.multiplier = multiplier[0];
    p.shift = shift[0];
    CODES(qc_mul_u8, count, &context, &p, x, y)
    fill(table, 256);
    CODES(qc_table_u8, count, &context, count, table, x)
    CODES(qc_clamp_u8, count, &context, count, p.qmin, p.qmax, x)
}

static void test_pools(uint64_t seed)
{
    qc_pool p = {.batch = between(1, 2), .height = between(1, 12), .width = between(1, 12), .channels = between(1, 90)};
    p.kernel_h = between(1, p.height < 7 ? p.height : 7);
    p.kernel_w = between(1, p.width < 7 ? p.width : 7);
    p.stride_h = between(1, 2);
    p.stride_w = between(1, 2);
    p.dilation_h = p.dilation_w = 1;
    p.pad_top = between(0, p.kernel_h / 2);
    p.pad_left = between(0, p.kernel_w / 2);
    p.out_height = (p.height + 2 * p.pad_top - p.kernel_h) / p.stride_h + 1;
    p.out_width = (p.width + 2 * p.pad_left - p.kernel_w) / p.stride_w + 1;
    fill_scaling(400, 10);
    p.multiplier = multiplier;
    p.shift = shift;
    p.x_zero_point = (int32_t)between(-128, 127);
    bounds(&p.zero_point, &p.qmin, &p.qmax);
    const int64_t count = p.batch * p.out_height * p.out_width * p.channels;
    const int64_t shape[10] = {p.height, p.width, p.channels, p.kernel_h, p.kernel_w, p.stride_h, p.pad_top};
    fill(x, p.batch * p.height * p.width * p.channels + 64);
    CODES(qc_max_pool2d_u8, count, &context, &p, x)
    CODES(qc_avg_pool2d_u8, count, &context, &p, x)
    p.out_height = between(1, p.height);
    p.out_width = between(1, p.width);
    CODES(qc_adaptive_avg_pool2d_u8, p.batch * p.out_height * p.out_width * p.channels, &context, &p, x)
    qc_mean m = {.rank = 2, .reduced_rank = 2, .shape = {p.batch, p.channels}, .out_stride = {p.channels, 1}};
    m.x_stride[0] = p.height * p.width * p.channels;
    m.x_stride[1] = 1;
    m.reduced_shape[0] = p.height;
    m.reduced_shape[1] = p.width;
    m.reduced_stride[0] = p.width * p.channels;
    m.reduced_stride[1] = p.channels;
    m.multiplier = multiplier[0];
    m.shift = shift[0];
    m.x_zero_point = p.x_zero_point;
    m.zero_point = p.zero_point;
    m.qmin = p.qmin;
    m.qmax = p.qmax;
    CODES(qc_mean_u8, p.batch * p.channels, &context, &m, x)
    qc_resize r = {.batch = p.batch, .height = p.height, .width = p.width, .channels = p.channels};
    r.out_height = between(1, 20);
    r.out_width = between(1, 20);
    r.scale[0] = between(1, 40);
    r.scale[1] = between(1, 40);
    r.scale[2] = between(1, 20);
    r.scale[3] = between(1, 20);
    r.offset[0] = between(-20, 20);
    r.offset[1] = between(-20, 20);
    fill_scaling(1, 8 + bits_of(r.scale[0] * r.scale[2]));
    r.multiplier = multiplier[0];
    r.shift = shift[0];
    r.x_zero_point = p.x_zero_point;
    bounds(&r.zero_point, &r.qmin, &r.qmax);
    CODES(qc_resize_nearest_u8, r.batch * r.out_height * r.out_width * r.channels, &context, &r, x)
    CODES(qc_resize_bilinear_u8, r.batch * r.out_height * r.out_width * r.channels, &context, &r, x)
}

static void test_movement(uint64_t seed)
{
    qc_copy p = {.rank = 3, .item_size = maybe(60) ? 1 : 4};
    int order[3] = {0, 1, 2};
    for (int i = 2; i > 0; i--) {
        const int j = (int)between(0, i), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    int64_t out = 1, source = 1;
    for (int i = 0; i < 3; i++)
        p.shape[i] = maybe(50) ? between(1, 5) : between(1, 70);
    for (int i = 2; i >= 0; i--) {
        p.out_stride[i] = out;
        out *= p.shape[i];
        p.source_stride[order[i]] = source;
        source *= p.shape[order[i]];
    }
    const int64_t shape[10] = {p.item_size, p.shape[0], p.shape[1], p.shape[2], order[0], order[1], order[2]};
    if (out * p.item_size > ROOM - 64)
        return;
    fill(x, out * p.item_size + 64);
    CODES(qc_copy_nd, out * p.item_size, &context, &p, x)
    qc_dequantize_sums d = {.shape = {1, p.shape[0], p.shape[1], p.shape[2]}, .scale = numbers};
    for (int i = 0; i < 3; i++) {
        d.stride[i + 1] = p.source_stride[i];
        d.scale_stride[i + 1] = i == 0;
    }
    if (out > ROOM / 4)
        return;
    for (int64_t i = 0; i < out; i++)
        sums[i] = (int32_t)next() >> 8;
    for (int64_t i = 0; i < 70; i++)
        numbers[i] = (float)between(1, 1000) / 256.0f;
    float *wide;
    BOTH(wide, first_numbers, second_numbers, qc_dequantize_i32_f32(&context, &d, sums, wide))
    compare("dequantize_sums", first_numbers, second_numbers, out * 4, seed, shape);
}

int main(int count, char **arguments)
{
    static void (*const tests[])(uint64_t) = {test_conv,      test_rows,    test_depthwise,
                                              test_matmul,    test_borders, test_requantize,
                                              test_elementwise, test_pools, test_movement,
                                              test_pointwise_depthwise, test_gemv};
    const uint64_t seed = count > 2 ? strtoull(arguments[2], NULL, 10) : 0;
    const uint64_t seeds = count > 3 ? strtoull(arguments[3], NULL, 10) : 1;
    const int only = count > 4 ? atoi(arguments[4]) : -1;
    level = count > 1 ? arguments[1] : "portable";
    if (qc_select("portable") || qc_select(level))
        return 3;
    for (uint64_t i = seed; i < seed + seeds; i++)
        for (int t = 0; t < (int)(sizeof tests / sizeof *tests); t++) {
            state = i * 1000003 + (uint64_t)t * 7919 + 12345;
            for (int k = 0; k < 8; k++)
                next();
            if (only < 0 || only == t)
                tests[t](i);
        }
    return failures != 0;
}
