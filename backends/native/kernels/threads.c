/* A persistent pool of threads: one caller at a time, one part of a job per thread, spin first and sleep later.
 *
 * Every worker waits on a line of its own. The caller posts part w of a job on the line of worker w, computes
 * part 0, and then takes back each part that its worker has not started: a worker that gets no processor
 * delays nobody. A part runs on the same worker in every job, next to what that worker wrote before. */
#define _GNU_SOURCE
#include "qc.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#define MAX_WORKERS 255
/* A worker sleeps after so long without a part; the caller wakes it at the start of its next call. */
#define SPIN_NANOSECONDS 60000
/* A thread that waits offers its processor to others once in so many looks. */
#define LOOKS_PER_YIELD 256
/* The least part of one thread, in multiply-accumulates: 0.25 us at the peak. Fork and join take 0.15 us
 * while workers spin. */
#define MIN_PART_COST 60000

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() ((void)0)
#endif

/* `ticket` is twice the number of a job while its part is open, one more once a thread has taken it. */
typedef struct {
    _Alignas(128) _Atomic uint64_t ticket;
    _Atomic uint64_t finished; /* number of the last job whose part is computed */
    qc_task task;
    const void *job;
    int index, count;
    atomic_int asleep;
    _Alignas(128) pthread_mutex_t lock;
    pthread_cond_t wake;
    int called; /* guarded by lock */
    pthread_t thread;
} worker;

static atomic_flag held = ATOMIC_FLAG_INIT;
static atomic_int stopping;
static worker workers[MAX_WORKERS];
static int worker_count;
/* These belong to the thread that holds the pool; the threads of its job may read them. */
static uint64_t last_job;
static int inside_job;

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int is_open(worker *w)
{
    return !(atomic_load_explicit(&w->ticket, memory_order_acquire) & 1);
}

/* Takes an open part; its fields may be read only once this has succeeded. */
static int take(worker *w)
{
    uint64_t ticket = atomic_load_explicit(&w->ticket, memory_order_acquire);
    return !(ticket & 1) && atomic_compare_exchange_strong(&w->ticket, &ticket, ticket | 1);
}

static void compute(worker *w)
{
    const uint64_t number = atomic_load_explicit(&w->ticket, memory_order_relaxed) / 2;
    w->task(w->job, w->index, w->count);
    atomic_store_explicit(&w->finished, number, memory_order_release);
}

static void doze(worker *w)
{
    pthread_mutex_lock(&w->lock);
    atomic_store(&w->asleep, 1);
    while (!w->called && (atomic_load(&w->ticket) & 1) && !atomic_load(&stopping))
        pthread_cond_wait(&w->wake, &w->lock);
    atomic_store(&w->asleep, 0);
    w->called = 0;
    pthread_mutex_unlock(&w->lock);
}

static void call(worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->called = 1;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

static void *work(void *argument)
{
    worker *w = argument;
    int64_t idle_since = nanoseconds();
    for (int looks = 1; !atomic_load_explicit(&stopping, memory_order_relaxed); looks++) {
        if (is_open(w)) {
            if (take(w))
                compute(w);
            idle_since = nanoseconds();
            looks = 0;
        } else if (looks % LOOKS_PER_YIELD) {
            RELAX();
        } else if (nanoseconds() - idle_since < SPIN_NANOSECONDS) {
            sched_yield();
        } else {
            doze(w);
            idle_since = nanoseconds();
        }
    }
    return NULL;
}

static void reset(worker *w)
{
    atomic_store(&w->ticket, 1);
    atomic_store(&w->finished, 0);
    atomic_store(&w->asleep, 0);
    w->called = 0;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
}

/* A child process has none of its parent's workers. */
static void forget_workers(void)
{
    while (worker_count > 0)
        reset(&workers[--worker_count]);
    inside_job = 0;
    atomic_flag_clear(&held);
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget_workers);
}

__attribute__((destructor)) static void stop_workers(void)
{
    atomic_store(&stopping, 1);
    for (int i = 0; i < worker_count; i++)
        call(&workers[i]);
    for (int i = 0; i < worker_count; i++)
        pthread_join(workers[i].thread, NULL);
    worker_count = 0;
}

/* Starts workers until there are `count`; signals stay with the threads of the user's program. */
static void start_workers(int count)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; worker_count < count; worker_count++) {
        worker *w = &workers[worker_count];
        reset(w);
        if (pthread_create(&w->thread, NULL, work, w))
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Returns the number of threads that the caller may use; 1 means that the pool is not held. Workers wake up
 * already, so that they are awake at the first job; for `work` (see qc_parallel) that is worth it. */
int qc_pool_acquire(int threads, int64_t work)
{
    if (threads <= 1 || work < 2 * MIN_PART_COST || atomic_flag_test_and_set_explicit(&held, memory_order_acquire))
        return 1;
    const int wanted = threads - 1 < MAX_WORKERS ? threads - 1 : MAX_WORKERS;
    if (worker_count < wanted)
        start_workers(wanted);
    const int found = worker_count < wanted ? worker_count : wanted;
    for (int i = 0; i < found; i++)
        if (atomic_load_explicit(&workers[i].asleep, memory_order_relaxed))
            call(&workers[i]);
    if (found == 0)
        qc_pool_release();
    return found + 1;
}

void qc_pool_release(void)
{
    atomic_flag_clear_explicit(&held, memory_order_release);
}

static void post(worker *w, qc_task task, const void *job, int index, int count)
{
    w->task = task;
    w->job = job;
    w->index = index;
    w->count = count;
    atomic_store_explicit(&w->ticket, 2 * last_job, memory_order_release);
}

static void wait_for(worker *w)
{
    for (int looks = 1; atomic_load_explicit(&w->finished, memory_order_acquire) != last_job; looks++) {
        if (looks % LOOKS_PER_YIELD)
            RELAX();
        else
            sched_yield();
    }
}

/* Runs task(job, i, count) for every i < count, where count is at most the context's number of threads and
 * depends on it and on `cost`, the multiply-accumulates of the job, alone. */
void qc_parallel(const qc_context *context, qc_task task, const void *job, int64_t cost)
{
    const int64_t worth = cost / MIN_PART_COST;
    const int count = worth < context->threads ? (int)worth : context->threads;
    if (count <= 1 || inside_job) {
        task(job, 0, 1);
        return;
    }
    inside_job = 1;
    last_job++;
    for (int i = 1; i < count; i++)
        post(&workers[i - 1], task, job, i, count);
    /* Either this sees that a worker sleeps, or the worker sees its part before it sleeps. */
    atomic_thread_fence(memory_order_seq_cst);
    for (int i = 1; i < count; i++)
        if (atomic_load_explicit(&workers[i - 1].asleep, memory_order_relaxed))
            call(&workers[i - 1]);
    task(job, 0, count);
    for (int i = 1; i < count; i++)
        if (take(&workers[i - 1]))
            compute(&workers[i - 1]);
    for (int i = 1; i < count; i++)
        wait_for(&workers[i - 1]);
    inside_job = 0;
}
