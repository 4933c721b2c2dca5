// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";

import {TcbStatus} from "./TcbStatus.sol";

/// @notice The delay is more than a year. Deploy with a shorter one.
error DelayTooLong(uint256 delay);

/// @notice A status that cannot be allowed: Revoked, or a bit that is no status.
error StatusesInvalid(uint16 statuses);

/// @notice The id is already allowed, or will be at `from`.
error AlreadyAllowed(bytes32 id, uint256 from);

/// @notice The id is neither allowed nor waiting to be: there is nothing to take back.
error NotListed(bytes32 id);

/// @title What may run: a list of ids and the TCB it may run on, set by an owner
/// @notice Whoever relies on this list is told of anything it will newly accept `delay` seconds
/// before it does: new ids, more statuses, a lower evaluation number. What it accepts no longer
/// takes effect at once. Without an owner (`renounceOwnership`) it never changes again, but for
/// what was already announced. Nothing is allowed at deployment.
abstract contract AllowList is Ownable2Step {
    /// @param statuses Bit mask of `TcbStatus`: every status found must be in it.
    /// @param minimumEvaluation The least tcbEvaluationDataNumber.
    /// @param nextStatuses,nextMinimumEvaluation What replaces them at `nextFrom`, unless that is
    /// zero.
    struct Rules {
        uint16 statuses;
        uint16 minimumEvaluation;
        uint16 nextStatuses;
        uint16 nextMinimumEvaluation;
        uint64 nextFrom;
    }

    uint16 private constant ALL_STATUSES = uint16((1 << TcbStatus.REVOKED) - 1);

    /// @notice Seconds between announcing and accepting; zero leaves the time to the owner.
    uint256 public immutable delay;

    /// @notice When each id is or was accepted from (Unix seconds); zero for never.
    mapping(bytes32 id => uint256 time) public allowedFrom;

    Rules private _rules;

    /// @notice The id is accepted from this time on.
    event Allowed(bytes32 indexed id, uint256 from);

    /// @notice The id is no longer accepted, as of this event.
    event Disallowed(bytes32 indexed id);

    /// @notice Only these statuses and evaluations are accepted from this time on; until then,
    /// of what was accepted before, that which is also accepted after.
    event TcbRulesSet(uint16 statuses, uint16 minimumEvaluation, uint256 from);

    constructor(address owner, uint256 delay_, uint16 statuses, uint16 minimumEvaluation)
        Ownable(owner)
    {
        if (delay_ > 365 days) revert DelayTooLong(delay_);
        delay = delay_;
        _requireStatuses(statuses);
        _rules = Rules(statuses, minimumEvaluation, 0, 0, 0);
        emit TcbRulesSet(statuses, minimumEvaluation, block.timestamp);
    }

    /// @notice Accept an id, once the delay has passed.
    function allow(bytes32 id) external onlyOwner {
        uint256 from = allowedFrom[id];
        if (from != 0) revert AlreadyAllowed(id, from);
        from = block.timestamp + delay;
        allowedFrom[id] = from;
        emit Allowed(id, from);
    }

    /// @notice Stop accepting an id at once, or withdraw the announcement that it will be.
    function disallow(bytes32 id) external onlyOwner {
        if (allowedFrom[id] == 0) revert NotListed(id);
        delete allowedFrom[id];
        emit Disallowed(id);
        _tightened();
    }

    /// @notice Set the statuses and the least evaluation number accepted. What they exclude that
    /// was accepted is excluded at once; what they add waits for the delay.
    function setTcbRules(uint16 statuses, uint16 minimumEvaluation) external onlyOwner {
        _requireStatuses(statuses);
        (uint16 nowStatuses, uint16 nowMinimum) = tcbRules();
        uint16 both = nowStatuses & statuses;
        uint16 higher = nowMinimum > minimumEvaluation ? nowMinimum : minimumEvaluation;
        bool looser = both != statuses || higher != minimumEvaluation;
        uint256 from = looser ? block.timestamp + delay : block.timestamp;
        _rules = Rules(both, higher, statuses, minimumEvaluation, looser ? uint64(from) : 0);
        emit TcbRulesSet(statuses, minimumEvaluation, from);
        if (both != nowStatuses || higher != nowMinimum) _tightened();
    }

    /// @notice The statuses and the least evaluation number accepted now.
    function tcbRules() public view returns (uint16 statuses, uint16 minimumEvaluation) {
        Rules memory rules = _rules;
        return rules.nextFrom != 0 && rules.nextFrom <= block.timestamp
            ? (rules.nextStatuses, rules.nextMinimumEvaluation)
            : (rules.statuses, rules.minimumEvaluation);
    }

    /// @notice The rules as stored, with those that wait.
    function announcedTcbRules() external view returns (Rules memory) {
        return _rules;
    }

    /// @dev Called after anything that was accepted no longer is.
    function _tightened() internal virtual;

    function _requireStatuses(uint16 statuses) private pure {
        if (statuses & ~ALL_STATUSES != 0) revert StatusesInvalid(statuses);
    }
}
