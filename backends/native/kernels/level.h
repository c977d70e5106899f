/* The instruction set that a unit is compiled for, from what the build enables. */
#ifndef QC_LEVEL_H
#define QC_LEVEL_H

#include <stdint.h>

#include "qc.h"

#if QC_SIGNED_CODES
#if defined(__aarch64__) && !defined(QC_PORTABLE)
#define QC_NEON 1
#if defined(__ARM_FEATURE_DOTPROD)
#define QC_DOT 1  /* sdot */
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define QC_I8MM 1 /* smmla */
#endif
#elif QC_SMALL && !defined(QC_PORTABLE)
#if defined(__ARM_FEATURE_MVE)
#define QC_HELIUM 1
#elif defined(__ARM_FEATURE_DSP)
#define QC_DSP 1  /* smlad */
#endif
#endif
#elif defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define QC_AVX512 1
#elif defined(__AVX2__)
#define QC_AVX2 1
#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
#define QC_AVX2_VNNI 1 /* vpdpbusd on 256-bit registers, in either encoding */
#endif
#endif

/* Inlined at every level of optimization: a call would overwrite sums that are pinned to registers. */
#define QC_INLINE static inline __attribute__((always_inline))

/* Arrays on the stack that vectors are loaded from. */
#define QC_ALIGNED __attribute__((aligned(QC_SMALL ? 8 : 64)))

/* Numbers at any address. */
typedef uint32_t qc_uint32_anywhere __attribute__((aligned(1), may_alias));
typedef int32_t qc_int32_anywhere __attribute__((aligned(1), may_alias));
typedef int64_t qc_int64_anywhere __attribute__((aligned(1), may_alias));

#endif
