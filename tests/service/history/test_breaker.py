from service.history.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock, failures=3, cooldown_s=2.0)
    for _ in range(3):
        breaker.failed()
    return breaker


def test_only_failures_in_a_row_open_it():
    breaker = Breaker(Clock(), failures=3, cooldown_s=2.0)
    for _ in range(5):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.allows()


def test_open_it_lets_nobody_pass_until_it_has_cooled_down():
    clock = Clock()
    breaker = opened(clock)
    clock.now += 1.9
    assert (breaker.state, breaker.allows()) == ("open", False)
    assert round(breaker.wait_s, 6) == 0.1


def test_half_open_it_lets_one_trial_pass():
    clock = Clock()
    breaker = opened(clock)
    clock.now += 2.0
    assert breaker.state == "half_open"
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    assert breaker.state == "half_open"


def test_the_trial_decides():
    clock = Clock()
    breaker = opened(clock)
    clock.now += 2.0
    assert breaker.allows()
    breaker.failed()
    assert breaker.state == "open"
    clock.now += 2.0
    assert breaker.allows()
    breaker.succeeded()
    assert (breaker.state, breaker.wait_s) == ("closed", 0.0)


def test_a_trial_that_never_reports_back_is_given_up():
    clock = Clock()
    breaker = opened(clock)
    clock.now += 2.0
    assert breaker.allows()
    clock.now += 2.0
    assert breaker.allows()


def test_a_lost_connection_opens_it_at_once():
    breaker = Breaker(Clock())
    breaker.trip()
    assert breaker.state == "open"
